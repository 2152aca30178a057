// Package image owns images: names and tags, lookup, pull and push, load and
// save, import, commit, history and removal. Content and layers live in
// containerd's stores, reached through the ports in ports.go.
//
// An image's ID is the digest of what its name points to (manifest or index),
// as in Docker 29 with the containerd image store.
package image
