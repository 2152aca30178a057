package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// endpoint is where a plugin is reached.
type endpoint struct {
	network, addr string // unix and a path, or tcp and host:port
	tls           *tlsFiles
	// stamp changes when another process listens on the socket: it made it anew.
	stamp   string
	managed *ManagedPlugin // nil for one beside the engine
}

// tlsFiles is the TLSConfig of a .json file.
type tlsFiles struct {
	InsecureSkipVerify bool
	CAFile             string
	CertFile           string
	KeyFile            string
}

const (
	maxSpec    = 64 << 10 // bytes of a .spec or .json file
	maxPlugins = 1000     // that are listed
)

// nameRule keeps a plugin's name a file's name.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// managedRule is the form of a managed plugin's name, "host:5000/dir/name:tag".
var managedRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_./:-]{0,254}$`)

func notFound(name string) error {
	return fault.New(errdefs.ErrNotFound, `plugin %q not found`, name)
}

// find looks for a plugin: a socket in any of the directories comes first, then
// the first .spec or .json.
func find(dirs []string, name string) (endpoint, error) {
	if !nameRule.MatchString(name) {
		return endpoint{}, notFound(name)
	}
	for _, dir := range dirs {
		for _, p := range []string{filepath.Join(dir, name+".sock"), filepath.Join(dir, name, name+".sock")} {
			e, err := unixEndpoint(p)
			if err == nil {
				return e, nil
			}
			if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				return endpoint{}, fmt.Errorf("look for plugin %s: %w", name, err)
			}
		}
	}
	for _, dir := range dirs {
		for _, ext := range []string{".spec", ".json"} {
			for _, p := range []string{filepath.Join(dir, name+ext), filepath.Join(dir, name, name+ext)} {
				b, err := readSmall(p)
				if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
					continue
				}
				if err != nil {
					return endpoint{}, fmt.Errorf("look for plugin %s: %w", name, err)
				}
				e, err := parseSpec(ext, b)
				if err != nil {
					return endpoint{}, fault.Wrap(errdefs.ErrInvalidArgument, err, "plugin %s: %s", name, p)
				}
				if e.network == "unix" { // it need not be there yet
					if there, err := unixEndpoint(e.addr); err == nil {
						e.stamp = there.stamp
					}
				}
				return e, nil
			}
		}
	}
	return endpoint{}, notFound(name)
}

func unixEndpoint(path string) (endpoint, error) {
	st, err := os.Stat(path)
	if err != nil {
		return endpoint{}, err
	}
	if st.Mode()&os.ModeSocket == 0 {
		return endpoint{}, fmt.Errorf("%s is not a socket", path)
	}
	e := endpoint{network: "unix", addr: path}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		e.stamp = fmt.Sprintf("%d:%d:%d.%d", s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec)
	}
	return e, nil
}

// readSmall reads a file that must be a regular one of a few kilobytes.
func readSmall(path string) (_ []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err == nil && len(b) > maxSpec {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxSpec)
	}
	return b, err
}

// parseSpec reads a .spec, which is an address, or a .json.
func parseSpec(ext string, b []byte) (endpoint, error) {
	addr, files := strings.TrimSpace(string(b)), (*tlsFiles)(nil)
	if ext == ".json" {
		var v struct {
			Addr      string
			TLSConfig *tlsFiles
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return endpoint{}, err
		}
		addr, files = v.Addr, v.TLSConfig
	}
	u, err := url.Parse(addr)
	if err != nil {
		return endpoint{}, err
	}
	switch {
	case u.Scheme == "unix" && filepath.IsAbs(u.Path) && u.Host == "":
		return endpoint{network: "unix", addr: u.Path, tls: files}, nil
	case u.Scheme == "tcp" && u.Port() != "":
		return endpoint{network: "tcp", addr: u.Host, tls: files}, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Port() != "":
		if u.Scheme == "https" && files == nil {
			files = &tlsFiles{}
		}
		return endpoint{network: "tcp", addr: u.Host, tls: files}, nil
	}
	return endpoint{}, fmt.Errorf("address %q is neither unix:///path nor tcp://host:port", addr)
}

// scan lists the names of what may be plugins.
func scan(dirs []string) ([]string, error) {
	var out []string
	var errs []error
	for _, dir := range dirs {
		es, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("look for plugins: %w", err))
			continue
		}
		for _, e := range es[:min(len(es), maxPlugins)] {
			name := e.Name()
			if !e.IsDir() {
				ext := filepath.Ext(name)
				if ext != ".sock" && ext != ".spec" && ext != ".json" {
					continue
				}
				name = strings.TrimSuffix(name, ext)
			}
			if nameRule.MatchString(name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), errors.Join(errs...)
}
