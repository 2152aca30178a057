package network

import (
	"fmt"
	"strings"
	"testing"
)

// Endpoints of one container must not meet in the name of a host end, which
// holds only the first digits of their IDs.
func TestHostEndsOfOneContainerDiffer(t *testing.T) {
	var s Service
	seen := map[string]string{}
	container := strings.Repeat("c", 64)
	for n := range 10000 {
		fresh := fmt.Sprintf("%064x", uint64(n)*0x9e3779b97f4a7c15)[32:] + strings.Repeat("0", 32)
		fresh = fresh[16:] + fresh[:16] // the varied digits first, as in a random ID
		name := s.hostEnd(endpointID(container, fresh))
		if len(name) > 15 {
			t.Fatalf("%s is too long for the kernel", name)
		}
		if other, ok := seen[name]; ok {
			t.Fatalf("%s and %s are both %s", fresh, other, name)
		}
		seen[name] = fresh
	}
}
