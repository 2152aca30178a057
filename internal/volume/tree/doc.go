// Package tree copies directory trees: owners, modes, times, extended
// attributes (so ACLs and capabilities too), hard and symbolic links, special
// files, holes. Regular files share their blocks with the source where the file
// system can (FICLONE), and are copied by several workers.
//
// Others may work in either tree and may be hostile: every step is relative to
// an open directory and follows no link.
package tree
