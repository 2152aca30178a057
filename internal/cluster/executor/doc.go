// Package executor runs SwarmKit's tasks as containers of this engine. A task's
// container carries Docker's labels (com.docker.swarm.…) and is found by the
// task's name, so that nothing has to be remembered: whatever state a controller
// is made in, it asks the container service what is there. A daemon that comes
// back adopts what runs.
//
// Each step may be cut short and is asked for again: Prepare finds its container
// made, Start finds it running, Remove finds it gone.
package executor
