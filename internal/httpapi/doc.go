// Package httpapi serves the Docker Engine API: listeners, version negotiation,
// middleware, the mapping of error classes to status codes, and one router
// folder per resource. Handlers decode, make one call, encode.
package httpapi
