// Package stdio fans the output of a process out to its log and to attached
// clients, and their input in. It is pure: it sees readers and writers only.
package stdio

import "io"

// Streams are the daemon's ends of a process's standard streams. A nil one is
// not connected. With a terminal, Stderr is nil and Stdout carries everything.
// Reads end with io.EOF once every writer in the container has closed.
type Streams struct {
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser
}
