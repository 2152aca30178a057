// Package netalloc hands out what networks across nodes need: a number for the
// tunnel, subnets, and addresses of services, tasks and nodes. SwarmKit's leader
// calls it; what was given stands in SwarmKit's own objects, from which a new
// leader restores everything: asking for what an object already has is how.
//
// Addresses are given in turn and not the lowest first, so that one that was
// freed is not soon somebody else's while nodes still know it.
package netalloc
