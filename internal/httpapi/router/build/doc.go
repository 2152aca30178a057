// Package build serves the endpoints that make images of Dockerfiles: the
// classic one, and the connections by which BuildKit's own clients come.
package build
