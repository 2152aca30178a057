// Package ctrd is containerd inside our process: content store, metadata,
// overlayfs snapshotter and task manager, with the shims outside as processes of
// their own that outlive us. It fills the container domain's Runtime and Rootfs
// ports. With imagestore it is the only importer of containerd.
//
// The parts are put together by hand, with no gRPC between them. Container
// objects of containerd are not kept: our own records are the truth, and the
// start of a container is spared two transactions.
package ctrd
