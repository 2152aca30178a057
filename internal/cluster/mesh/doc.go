// Package mesh keeps this node's part of the swarm's networks as it must be: the
// networks that its tasks need are on it, the directory tells the other nodes of
// the containers here, and what the directory knows of others is in the kernel
// and in the names that containers look up.
//
// view.go is the decision: what a node makes of the directory. A task holds its
// networks from before its container is made until after it is gone, so that
// none goes while somebody is about to need it.
//
// After a start nothing is taken away until the directory has met another node,
// or had the time to: connections of containers that outlived the daemon go on.
package mesh
