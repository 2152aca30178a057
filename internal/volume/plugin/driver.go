package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/volume"
)

// Driver is one plugin's volumes.
type Driver struct {
	r    *Registry
	name string

	mu     sync.Mutex  // guards active; never held during a call
	active *activation // nil: it is to be asked who it is
}

var (
	_ volume.Driver  = (*Driver)(nil)
	_ volume.Adopter = (*Driver)(nil)
)

// Name implements volume.Driver.
func (d *Driver) Name() string { return d.name }

// Capabilities implements volume.Driver.
func (d *Driver) Capabilities() volume.Capabilities {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active == nil {
		return volume.Capabilities{Scope: local}
	}
	return volume.Capabilities{Scope: d.active.scope}
}

// CheckOptions implements volume.Driver: options are the plugin's business, which
// Create hears.
func (d *Driver) CheckOptions(map[string]string) error { return nil }

// ask calls the plugin. One that does not answer is asked who it is the next time.
func (d *Driver) ask(ctx context.Context, method string, in, out any, within time.Duration) error {
	a, err := d.activate(ctx)
	if err != nil {
		return err
	}
	err = call(ctx, a.at, d.name, volumeDriver+"."+method, in, out, within, d.r.cfg.Limits)
	if err != nil && !refused(err) {
		d.forget()
	}
	return err
}

// refused tells that the plugin answered, with an error.
func refused(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

type named struct{ Name string }

// told is a volume as a plugin describes it.
type told struct {
	Name       string
	Mountpoint string
}

// Exists implements volume.Adopter. The protocol has no word for "there is none":
// a plugin that answers with an error says so.
func (d *Driver) Exists(ctx context.Context, v volume.Spec) (bool, error) {
	var out struct{ Volume *told }
	err := d.ask(ctx, "Get", named{v.Name}, &out, d.r.cfg.Limits.Quick)
	if refused(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if out.Volume == nil || out.Volume.Name == "" {
		return false, nil
	}
	if out.Volume.Name != v.Name {
		return false, silent(d.name, "VolumeDriver.Get", fmt.Errorf("asked for volume %q it tells of %q", v.Name, words(out.Volume.Name)))
	}
	return true, nil
}

// Create implements volume.Driver. What is there already is good: whose it is,
// the plugin knows.
func (d *Driver) Create(ctx context.Context, v volume.Spec) error {
	there, err := d.Exists(ctx, v)
	if err != nil || there {
		return err
	}
	return d.ask(ctx, "Create", struct {
		Name string
		Opts map[string]string
	}{v.Name, v.Options}, nil, d.r.cfg.Limits.Slow)
}

// Remove implements volume.Driver. What the plugin refuses, and still has, is
// whole.
func (d *Driver) Remove(ctx context.Context, v volume.Spec) error {
	if err := d.Unmount(ctx, v); err != nil {
		return err
	}
	err := d.ask(ctx, "Remove", named{v.Name}, nil, d.r.cfg.Limits.Slow)
	if !refused(err) {
		return err
	}
	there, gerr := d.Exists(ctx, v)
	switch {
	case gerr != nil:
		return errors.Join(err, gerr)
	case !there:
		return nil
	}
	return fault.Wrap(errdefs.ErrFailedPrecondition, err, "plugin %s", d.name)
}

// Path implements volume.Driver: where the plugin said it mounted it; empty
// before.
func (d *Driver) Path(v volume.Spec) string {
	m, _ := d.r.state.get(d.name, v.Name)
	return m.Path
}

// mountID tells the plugin who wants a volume mounted. It is the same for all
// containers of this engine: for the plugin there is one user.
const mountID = "holdfast"

type mountRequest struct{ Name, ID string }

// Mount implements volume.Driver.
func (d *Driver) Mount(ctx context.Context, v volume.Spec) error {
	m, known := d.r.state.get(d.name, v.Name)
	// Who it is, first: what is not there to be told anything was told nothing.
	a, err := d.activate(ctx)
	if err != nil {
		return err
	}
	if known && m.Phase == mounted {
		ok, err := d.still(ctx, v, m, a)
		if err != nil || ok {
			return err
		}
	} else if known {
		// We do not know whether the plugin heard us the last time. It counts.
		if err := d.Unmount(ctx, v); err != nil {
			return err
		}
	}
	if err := d.r.state.set(d.name, v.Name, mount{Phase: mounting}); err != nil {
		return err
	}
	var out struct{ Mountpoint string }
	err = d.ask(ctx, "Mount", mountRequest{v.Name, mountID}, &out, d.r.cfg.Limits.Slow)
	if refused(err) {
		return errors.Join(err, d.r.state.drop(d.name, v.Name))
	}
	if err != nil {
		return err
	}
	path, err := d.place(a.at.managed, out.Mountpoint)
	if err != nil {
		return errors.Join(silent(d.name, "VolumeDriver.Mount", err), d.Unmount(context.WithoutCancel(ctx), v))
	}
	return d.r.state.set(d.name, v.Name, mount{Phase: mounted, Path: path, Stamp: a.at.stamp})
}

// still tells whether a plugin knows that a volume is mounted. One that
// restarted has forgotten: it is told again. Where that cannot be seen it is
// asked.
func (d *Driver) still(ctx context.Context, v volume.Spec, m mount, a activation) (bool, error) {
	if a.at.stamp != "" {
		return a.at.stamp == m.Stamp, nil
	}
	var out struct{ Mountpoint string }
	err := d.ask(ctx, "Path", named{v.Name}, &out, d.r.cfg.Limits.Quick)
	if err != nil && !refused(err) {
		return false, err
	}
	if err != nil {
		return false, nil
	}
	path, err := d.place(a.at.managed, out.Mountpoint)
	return err == nil && path == m.Path, nil //nolint:nilerr // then it is told again, and the error with it
}

const maxPath = 4096

// place checks where a plugin says that a volume is, and finds that on the machine.
func (d *Driver) place(m *ManagedPlugin, p string) (string, error) {
	clean := filepath.Clean(p)
	switch {
	case len(p) > maxPath || strings.ContainsRune(p, 0) || !filepath.IsAbs(p):
		return "", fmt.Errorf("it says that the volume is at %q, which is no absolute path", words(p))
	case clean == "/":
		return "", errors.New("it says that the volume is the machine's own root")
	case m != nil:
		return m.outside(clean)
	}
	for _, keep := range d.r.cfg.Keep {
		if within(keep, clean) || within(clean, keep) {
			return "", fmt.Errorf("it says that the volume is at %q, where the engine's own data is", words(clean))
		}
	}
	return clean, nil
}

// outside finds a path of a managed plugin's on the machine. No link that the
// plugin made leads out of what is the plugin's.
func (m *ManagedPlugin) outside(p string) (string, error) {
	root, rest := m.Root, p
	if m.Inside != "" && within(m.Inside, p) {
		root, rest = m.Outside, strings.TrimPrefix(p, m.Inside)
	}
	if root == "" {
		return "", fmt.Errorf("it says that the volume is at %q, which the machine does not see", words(p))
	}
	dir, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), "./"+rest, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", fmt.Errorf("it says that the volume is at %q: %w", words(p), err)
	}
	defer unix.Close(fd)
	top, err := pathOf(int(dir.Fd()))
	if err != nil {
		return "", err
	}
	place, err := pathOf(fd)
	if err != nil {
		return "", err
	}
	if !within(top, place) {
		return "", fmt.Errorf("it says that the volume is at %q, which is not its own", words(p))
	}
	return place, nil
}

// pathOf is where an open file is, with all links followed.
func pathOf(fd int) (string, error) { return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)) }

func within(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// Unmount implements volume.Driver.
func (d *Driver) Unmount(ctx context.Context, v volume.Spec) error {
	m, known := d.r.state.get(d.name, v.Name)
	if !known {
		return nil
	}
	if m.Phase == mounted {
		if err := d.r.state.set(d.name, v.Name, mount{Phase: unmounting, Path: m.Path, Stamp: m.Stamp}); err != nil {
			return err
		}
	}
	err := d.ask(ctx, "Unmount", mountRequest{v.Name, mountID}, nil, d.r.cfg.Limits.Slow)
	switch {
	case refused(err) && m.Phase == mounted && d.heard(m):
		// It knows of it and will not: it stays mounted.
		return errors.Join(err, d.r.state.set(d.name, v.Name, m))
	case refused(err):
		// We asked twice, or for what never was, or it restarted and has forgotten.
		d.r.cfg.Log.Debug("plugin has nothing to unmount", logkey.Driver, d.name, logkey.Volume, v.Name, logkey.Err, err)
	case err != nil:
		return err
	}
	return d.r.state.drop(d.name, v.Name)
}

// heard tells whether the plugin is the one that was told to mount.
func (d *Driver) heard(m mount) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active != nil && d.active.at.stamp == m.Stamp
}

// blockSize is the unit of st_blocks.
const blockSize = 512

// Usage implements volume.Driver. It walks the volume, where it is mounted.
func (d *Driver) Usage(ctx context.Context, v volume.Spec) (int64, error) {
	path := d.Path(v)
	if path == "" {
		return 0, fault.New(errdefs.ErrFailedPrecondition, "volume %s is not mounted", v.Name)
	}
	var sum int64
	type id struct{ dev, ino uint64 }
	seen := map[id]bool{}
	err := filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			k := id{st.Dev, st.Ino}
			if st.Nlink > 1 && !e.IsDir() {
				if seen[k] {
					return nil
				}
				seen[k] = true
			}
			sum += st.Blocks * blockSize
		}
		return nil
	})
	return sum, err
}
