package daemon

import (
	"runtime"
	"runtime/debug"
)

// Version is what the build says of itself. The Makefile sets it through
// cmd/holdfastd's linker flags.
type Version struct {
	Version   string // "0.1.0", or "dev"
	Commit    string
	BuildTime string // RFC 3339
}

// moduleVersion returns the version of a module this binary was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			if m.Replace != nil {
				return m.Replace.Version
			}
			return m.Version
		}
	}
	return ""
}

func goVersion() string { return runtime.Version() }
