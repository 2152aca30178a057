// Package kopia keeps backups in repositories of kopia's format and alone imports
// it: content-defined pieces, each once, compressed and encrypted, in packs.
//
// A backup is a kopia snapshot that kopia's own program can list, restore and
// collect garbage around (data/ and our list of files beside it), and a manifest of
// ours, written in the same step. Contents are taken over from earlier backups by
// their lists. While a save goes on, what it has come to is put down from time to
// time, so that one that was cut off goes on from there.
//
// kopia promises no stable API: the version is pinned, and an update is a change of
// this package alone.
package kopia
