// Package sets runs stateful sets in a swarm: it keeps their records and the nodes'
// leases as Resource objects in SwarmKit's store, makes a set's service into hidden
// services, one for each member, and carries what nodes tell each other about sets.
// The rules are internal/stateful's.
//
// A node renews its lease at any manager; the manager writes it by compare-and-swap
// at the raft leader and reads the answer from a store that has that write. The
// controller runs on the raft leader. docs/design/stateful.md.
package sets
