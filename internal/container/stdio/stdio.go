// Package stdio fans the output of a process out to its log and to attached
// clients, and their input in. It is pure: it sees readers and writers only.
//
// Output has one reader per stream. What it reads goes to the log first and to
// the clients after, so that a killed daemon has logged nearly all it consumed.
// A client has a buffer of its own; when that is full the process waits for the
// client, as a terminal would make it wait, but only while the client takes
// something: one that takes nothing for a minute is dropped, and the process
// and the other clients go on. The log is never behind a client.
//
// Input of several clients is interleaved in the pieces they send.
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

// Close closes all three.
func (s Streams) Close() {
	// An error of closing tells nothing: what was written is in the kernel, and
	// what could not be read is lost either way.
	if s.Stdin != nil {
		_ = s.Stdin.Close()
	}
	if s.Stdout != nil {
		_ = s.Stdout.Close()
	}
	if s.Stderr != nil {
		_ = s.Stderr.Close()
	}
}
