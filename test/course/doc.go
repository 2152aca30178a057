// Package course executes the walk-throughs of docs/course, each against a daemon
// of its own and with the stock docker CLI: a `console` block is a session whose
// output must be as printed, an `sh` block is a script that must succeed.
package course
