// Package peers is how the nodes of a swarm talk to each other beside SwarmKit:
// HTTP over mutual TLS with the certificates that SwarmKit gave them. A node tells
// what images it has and serves them; managers tell who is a member.
//
// Nobody but a member is answered: a connection is closed in its handshake, with
// no byte of a request read, unless its certificate is of this swarm's authority,
// of this swarm and of a node that is still in it. Where no manager can be asked
// the certificate alone counts.
package peers
