// Package seccomp holds what is linked into runc to make its filters quickly:
// src/join.c says why and how. Its test needs gcc and libseccomp-dev, as the
// build does.
package seccomp
