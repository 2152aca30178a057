//go:build failpoint

package failpoint

import (
	"os"
	"sync"
)

// Enabled tells whether this program was built with failpoints.
const Enabled = true

// set is read from the environment at the first hit. A package variable, since
// the points are all over the program, and only in test builds.
var set = sync.OnceValue(func() *Set {
	s, err := Parse(os.Getenv(EnvVar))
	if err != nil {
		panic(err)
	}
	return s
})

// Hit does what the point's terms say.
func Hit(name string) error { return set().Hit(name) }
