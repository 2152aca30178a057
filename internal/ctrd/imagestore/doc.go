// Package imagestore fills the image domain's ports with containerd: records
// in its image store, blobs in its content store, layers in its snapshotter,
// registries through its remotes.
//
// Everything is made under a lease (see Hold), so that what an interrupted
// operation leaves behind is garbage that containerd's collector takes away.
//
// A layer that arrives as a stream is written, hashed and unpacked in one pass:
// its snapshot is staged without a parent and gets its place in the chain when
// the image's config is known (stage.go).
package imagestore
