// Package btrfs keeps volumes as subvolumes of btrfs file systems (pools), so
// that snapshots, clones and sizes cost the same whatever a volume holds. A pool
// is a directory on a btrfs that is there already, a block device, or a file
// that a loop device makes one of.
//
// The kernel is asked by ioctl; mkfs.btrfs is run to make a pool. Limits and
// sizes are those of simple quotas (Linux 6.7). Full qgroups are never turned
// on: with them a snapshot takes seconds.
package btrfs
