// Package tree writes down a directory tree as entries in a fixed order (the index
// of a backup), says what changed since an earlier index, makes a tar of an index
// to restore from, and compares a tree with an index file by file.
//
// An index is a line of JSON per entry between a header and an end, so one that
// was cut off is noticed. Trees may be worked in by others, hostile ones among
// them: every step is relative to an open directory and follows no link.
package tree
