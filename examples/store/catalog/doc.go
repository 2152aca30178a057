// Package catalog is the store's data: products in a PostgreSQL primary, read
// from its standbys. Every answer tells which server gave it.
package catalog
