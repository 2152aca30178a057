// Package attach puts containers that are no task's into networks of the swarm.
//
// The swarm's allocator gives the address, as for tasks: this node asks a manager
// for an attachment, which SwarmKit keeps as a task of its own kind and assigns
// back to this node. Nothing is kept here. Which attachments there are SwarmKit
// knows, also after a restart; who uses one the network domain knows. settle.go
// compares the two and gives back what nobody uses, whatever happened in between.
package attach
