// Package plugin fills the Driver port of volumes with Docker's volume plugins:
// programs beside the engine that speak JSON over HTTP, found by files in
// well-known directories (protocol version 1, "legacy plugins").
//
// A plugin is a stranger: it may hang, die, restart, answer slowly, without end,
// with nonsense or with lies. Every call has a deadline and a bound on its
// answer, no lock is held during one, and what it says is checked. A plugin that
// restarted is asked again who it is: where its socket is another file, and
// whenever it did not answer.
//
// The protocol counts: each Mount wants one Unmount. So what is mounted is kept
// in a file, intent before deed, and outlives the daemon; a plugin is told Mount
// when the first container uses a volume and Unmount when the last has gone.
package plugin
