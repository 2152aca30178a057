// Package compat drives the daemon with clients that nobody here wrote: compose,
// moby's Go client, docker-py, dockerode, testcontainers-go with Ryuk and without,
// docker's own through ssh, and what an editor does that works in a
// container. With HF_ENGINE=dockerd the same steps run against Docker's daemon;
// what differs is listed with its reason. A test whose client is absent is
// skipped by its name.
package compat
