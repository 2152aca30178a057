// Package extension serves what Holdfast offers beyond Docker's API, under a
// prefix and a version of its own (package api).
package extension
