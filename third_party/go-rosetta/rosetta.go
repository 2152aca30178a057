// Package rosetta answers docker/cli's one question about Apple's
// translation layer. Holdfast runs on Linux only, where it never applies;
// this stand-in exists because the original module is not served by every
// module proxy.
package rosetta

// Enabled reports whether the process runs under Rosetta. Always false on Linux.
func Enabled() bool { return false }
