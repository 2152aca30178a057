// Package compat drives the daemon with clients that nobody here wrote:
// docker-py, dockerode, Docker's own client over TLS and ssh. Each test is
// skipped by name where its client is absent.
package compat
