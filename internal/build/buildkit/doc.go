// Package buildkit runs BuildKit's solver and Dockerfile frontend in the
// daemon's process, over the daemon's own content store and snapshots: what was
// built is an image at once, and layers are shared with all other images.
//
// It serves two ways in. Clients that speak BuildKit's own protocol (buildx) get
// a connection to its control service; the classic endpoint's requests are
// solved through the same service, by a client in this process.
//
// BuildKit is opened by the first use: an engine that never builds pays nothing.
package buildkit
