// Package sendstream reads the streams that btrfs sends (its format, versions 1
// and 2) and does in a directory what they say. The directory need not be on a
// btrfs: blocks are shared where the file system can, else copied.
//
// A stream is hostile: every length is bounded, every command has its checksum,
// and what it names is resolved by the kernel below the directory and never
// through a link. Only regular files are opened.
package sendstream
