// Package nettest holds the tests that need the kernel: the network service
// with all its adapters, in a network namespace of its own.
package nettest
