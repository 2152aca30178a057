// Package local keeps volumes as directories: <root>/<name>/_data. With the
// options type, device and o the directory is where something else gets
// mounted while the volume is used: a bind, a tmpfs, a share.
package local
