package httpapi

import (
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// The API versions served. MaxVersion is the newest that the types of
// moby/moby/api describe; a test holds it against the moby client's.
const (
	MinVersion = "1.24"
	MaxVersion = "1.56"
)

// checkVersion answers as Docker does; clients show these texts.
func checkVersion(v string) error {
	switch {
	case less(v, MinVersion):
		return fault.New(errdefs.ErrInvalidArgument,
			"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, MinVersion)
	case less(MaxVersion, v):
		return fault.New(errdefs.ErrInvalidArgument,
			"client version %s is too new. Maximum supported API version is %s", v, MaxVersion)
	}
	return nil
}

// less compares dotted numbers; a missing part counts as 0.
func less(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if x, y := part(as, i), part(bs, i); x != y {
			return x < y
		}
	}
	return false
}

func part(s []string, i int) int {
	if i >= len(s) {
		return 0
	}
	n, err := strconv.Atoi(s[i])
	if err != nil {
		return 0
	}
	return n
}
