// Package directory tells every node of a swarm which containers are in its
// networks, where, and whether they answer. Each node writes of its own
// containers only; memberlist (hashicorp, MPL-2) carries it to the others and
// notices nodes that are gone. Nothing that was not sealed with a key of the
// swarm is acted on.
//
// book is the whole decision: what a message changes, and what is to be seen of
// nodes alive, dead and forgotten. It knows no network and no clock.
//
// A change goes out as gossip, numbered by its writer. Who finds a number
// missing, or hears in a digest of a number it has not, asks for the writer's
// whole list. Digests go from node to node every few seconds, whole lists when a
// node joins.
package directory
