// Package archive writes a directory tree as a tar and makes one of a tar, with
// owners, modes, times, extended attributes, hard links, special files and
// holes. A tar from elsewhere is hostile: what it names is resolved by the
// kernel below the new tree and never through a link.
package archive
