// Package build is what a build request says and how its progress reads to a
// client of Docker's classic endpoint. It is pure; the building itself is
// BuildKit's, in internal/build/buildkit.
package build
