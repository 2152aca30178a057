// Package registry speaks the OCI distribution protocol as a server. What is
// behind it is a Source: the engine's own content, which nodes of a swarm read of
// each other, or a Dir, a folder that `holdfast registry serve` keeps.
//
// The handlers are ours because neither library at hand does: see
// docs/adr/008-registry-handlers-of-our-own.md.
package registry
