// Package store is the daemon's metadata database: one bbolt file, locked
// against a second daemon, with a schema version and migrations. Each domain
// keeps its records in a Collection of its own.
package store
