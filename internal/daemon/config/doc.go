// Package config is the daemon's configuration: its defaults, its flags, the
// file /etc/holdfast/daemon.json with the field's usual keys, and which part of
// it a running daemon takes over on SIGHUP.
//
// A key means the same as in Docker's daemon.json. Keys that Docker knows and
// Holdfast doesn't serve are refused by name with the reason; so are unknown
// ones, and a setting given both as a flag and in the file.
package config
