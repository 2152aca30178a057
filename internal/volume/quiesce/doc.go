// Package quiesce has the containers that write to volumes hold still while a snapshot
// is made, and go on afterwards, whatever happens.
//
// Two means: a *hook* tells the application itself (a session with the database that
// is held open, or a command before and one after), and a *freeze* stops all processes
// of a container (the cgroup freezer, as `docker pause`). A hook makes a snapshot
// application-consistent; a freeze makes a copy that takes a while, or copies of
// several volumes, one moment.
//
// What will have to be undone is on record before it is done. A session ends with us,
// since its standard input ends; the rest is undone by Settle at the next start.
package quiesce
