// Package compat drives the daemon with clients that nobody here wrote:
// docker-py, dockerode, testcontainers-go, and docker's own through ssh. A test whose client is
// absent is skipped by its name.
package compat
