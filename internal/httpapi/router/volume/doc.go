// Package volume serves /volumes.
package volume
