// Package plugin keeps managed plugins: programs from images that the engine
// runs for itself, so that volumes of theirs can be used (`docker plugin install`).
//
// A plugin is a record, a directory with its root file system, and, while it is
// enabled, a process. Its content (manifest, config, layer) is kept under a claim
// of its own, for a push. It never shares a layer with an image or a container.
//
// The record comes first: one in the phase Installing or Removing is cleared away
// at the next start, whatever was done of it. Enabled is what a user wants; the
// process follows it: at the start, after a crash, with growing pauses.
//
// What a config means (settings, privileges, the process) is decided by pure
// functions in config.go and spec.go.
package plugin
