// Package populate copies the content of an image's directory into a new
// volume: owners, modes, times, extended attributes, hard and symbolic links,
// special files, holes.
//
// The copy is made in a folder inside the volume and its entries are then
// renamed into place. A copy that was cut off is finished by the next one, and
// nothing that others put into the volume is ever touched. Other containers may
// have the volume mounted and may be hostile: every step is relative to an open
// directory and follows no link.
package populate
