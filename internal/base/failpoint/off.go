//go:build !failpoint

package failpoint

// Enabled tells whether this program was built with failpoints.
const Enabled = false

// Hit does nothing here.
func Hit(string) error { return nil }
