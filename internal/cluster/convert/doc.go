// Package convert carries the Docker API's swarm types over to SwarmKit's and
// back. It decides nothing: what SwarmKit cannot say is refused by name, and what
// was put in comes out again (the round-trip tests hold every field).
package convert
