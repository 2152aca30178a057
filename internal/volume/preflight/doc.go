// Package preflight finds out, by trying, whether a directory gives a database
// what it needs: ownership and modes that stick, atomic renames, files that stay
// readable when unlinked, fsync, locks, coherent shared memory, space. File
// systems differ in just these (SMB ignores chmod, object stores have no rename),
// and databases say so late and cryptically.
//
// Everything happens in a folder of its own inside the directory, which is
// removed. A file system that does not answer costs the time limit, not the
// caller.
package preflight
