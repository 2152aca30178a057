// Package api holds the tests of one daemon through its socket, by the stock
// docker CLI, the moby client and holdfast. test/README.md tells which promise
// each test holds.
package api
