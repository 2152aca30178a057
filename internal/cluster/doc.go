// Package cluster makes this engine a node of a swarm. SwarmKit runs embedded: it
// owns services, nodes, secrets and configs in its raft store, and schedules.
// Here are the life of the node (init, join, leave, unlock, restart), the verbs
// of the API against the control socket, and what this release refuses.
//
// executor runs SwarmKit's tasks as our containers; convert carries types over.
// Nothing of SwarmKit runs, and no file of it exists, before the node joins.
//
// What the state means on disk: <root>/swarm/node.json is written when the node
// is a member, as the last step; a folder without it is a join that did not come
// through and is cleared away. Leaving is marked in it before the deed.
package cluster
