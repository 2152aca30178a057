// Package analyze says where an image's bytes lie and which of them need not be
// there. It reads each layer's tar stream once, bottom first.
//
// Every entry becomes a small record. The records are sorted by path in runs of
// bounded size that are kept in a file, so memory does not grow with the number
// of entries; the merge then walks all layers' entries as one tree and decides,
// path by path, what a later layer replaced or took away. Files that the image
// still shows are sorted once more, by content, to find copies.
//
// The score is
//
//	efficiency = 100 × (1 − (wasted + duplicated) / bytes)
//
// where bytes is the content of all files of all layers, wasted is what later
// layers overwrite or delete, and duplicated is what further layers hold of
// content that a lower layer still shows. An image without content scores 100.
//
// Layers come from strangers: names, entries, bytes and disk are bounded by
// Limits, and every step ends with its context.
package analyze
