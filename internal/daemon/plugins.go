package daemon

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/base/openfile"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
	managed "holdfast.dev/holdfast/internal/plugin"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume/plugin"
)

// openPlugins reads which managed plugins there are. None runs before startPlugins.
func (d *Daemon) openPlugins(ctx context.Context) error {
	tasks, err := d.engine.OpenTasks(ctx, "plugins")
	if err != nil {
		return fmt.Errorf("open the tasks of plugins: %w", err)
	}
	d.managed, err = managed.New(managed.Deps{
		Clock:        d.clock,
		Random:       rand.Reader,
		Log:          d.log,
		Events:       d.events,
		Records:      store.NewCollection[managed.Record](d.db, "plugins"),
		Content:      pluginContent{imagestore.NewPlugins(d.imageStore)},
		Tasks:        pluginTasks{tasks, d},
		Machine:      pluginMachine{d.clock},
		Users:        pluginUsers{d},
		Dir:          filepath.Join(d.cfg.Root, "plugins"),
		RunDir:       filepath.Join(d.cfg.ExecRoot, "plugins"),
		Capabilities: d.facts.Capabilities,
		Cgroup:       d.pluginCgroup,
	})
	return err
}

func (d *Daemon) startPlugins(ctx context.Context) error {
	d.onStop(func(ctx context.Context) error { return d.managed.Stop(ctx, !d.settings().LiveRestore) })
	return d.managed.Start(ctx)
}

// pluginCgroup is beside those of containers.
func (d *Daemon) pluginCgroup(id string) string {
	if d.cfg.SystemdCgroup() {
		return "system.slice:holdfast-plugin:" + id
	}
	return path.Join("/", "holdfast-plugins", id)
}

// pluginContent lends the images' store to plugins.
type pluginContent struct{ imagestore.Plugins }

func (c pluginContent) Look(ctx context.Context, ref string, r managed.Remote) ([]byte, error) {
	return c.Plugins.Look(ctx, ref, image.Remote(r))
}

func (c pluginContent) Pull(ctx context.Context, claim, ref string, r managed.Remote, p managed.Progress) (managed.Artifact, error) {
	return artifact(c.Plugins.Pull(ctx, claim, ref, image.Remote(r), p))
}

func (c pluginContent) Pack(ctx context.Context, claim string, rootfs io.Reader, config func(string) ([]byte, error)) (managed.Artifact, error) {
	return artifact(c.Plugins.Pack(ctx, claim, rootfs, config))
}

func (c pluginContent) Push(ctx context.Context, ref string, target ocispec.Descriptor, r managed.Remote, p managed.Progress) error {
	return c.Plugins.Push(ctx, ref, target, image.Remote(r), p)
}

func artifact(target ocispec.Descriptor, config []byte, layers []ocispec.Descriptor, err error) (managed.Artifact, error) {
	return managed.Artifact{Target: target, Config: config, Layers: layers}, err
}

// pluginTasks runs plugins by a runtime of their own.
type pluginTasks struct {
	*ctrd.Runtime
	d *Daemon
}

// Base is containerd's own idea of a process, without its limits and its /run.
func (t pluginTasks) Base(ctx context.Context) (*specs.Spec, error) {
	ctx = namespaces.WithNamespace(ctx, ctrd.Namespace)
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "plugin"}, oci.WithDefaultUnixDevices)
	if err != nil {
		return nil, fmt.Errorf("make a spec: %w", err)
	}
	s.Process.Rlimits = nil
	s.Process.NoNewPrivileges = false
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/run" })
	return s, nil
}

func (t pluginTasks) Start(ctx context.Context, id string, spec *specs.Spec, log func(string)) error {
	_, streams, err := t.Create(ctx, container.TaskConfig{ID: id, Spec: spec})
	if err != nil {
		return err
	}
	t.follow(streams, log)
	if err := t.Runtime.Start(ctx, id); err != nil {
		return errors.Join(err, t.Runtime.Delete(context.WithoutCancel(ctx), id, true))
	}
	return nil
}

// maxPluginLine is where a line that a plugin writes is cut.
const maxPluginLine = 16 << 10

func (t pluginTasks) follow(streams container.Streams, log func(string)) {
	for _, r := range []io.ReadCloser{streams.Stdout, streams.Stderr} {
		if r == nil {
			continue
		}
		go func() { // ends with the process and all that hold its output
			in := bufio.NewReaderSize(r, maxPluginLine)
			for {
				line, _, err := in.ReadLine()
				if err != nil {
					_ = r.Close() // it was only read
					return
				}
				log(string(line))
			}
		}()
	}
}

func (t pluginTasks) Adopt(ctx context.Context, id string, log func(string)) (bool, error) {
	st, err := t.State(ctx, id, "")
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	case st.Status != container.TaskRunning:
		return false, t.Delete(ctx, id)
	}
	streams, err := t.Reattach(ctx, id, "", false, false)
	if err != nil {
		return false, err
	}
	t.follow(streams, log)
	return true, nil
}

func (t pluginTasks) Wait(ctx context.Context, id string) (int, error) {
	e, err := t.Runtime.Wait(ctx, id, "")
	return e.Code, err
}

func (t pluginTasks) Terminate(ctx context.Context, id string) error {
	return t.Kill(ctx, id, "", syscall.SIGTERM)
}

func (t pluginTasks) Delete(ctx context.Context, id string) error {
	return t.Runtime.Delete(ctx, id, true)
}

func (t pluginTasks) List(ctx context.Context) ([]string, error) {
	all, err := t.Runtime.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(all))
	for id := range all {
		out = append(out, id)
	}
	return out, nil
}

// pluginMachine is the kernel, for plugins.
type pluginMachine struct{ clock clock.Clock }

func (pluginMachine) Share(dir string) error {
	return mount.MakeRShared(dir) // binds it over itself where it is no mount yet
}

func (pluginMachine) Unshare(dir string) error {
	for {
		on, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		if len(on) == 0 {
			return nil
		}
		// The last is on top. What still uses it keeps it until it ends.
		if err := unix.Unmount(on[len(on)-1].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", on[len(on)-1].Mountpoint, err)
		}
	}
}

const dialEvery = 10 * time.Millisecond

func (m pluginMachine) Listening(ctx context.Context, socket string) error {
	for {
		c, err := openfile.Dial(ctx, socket)
		if err == nil {
			return c.Close()
		}
		if clock.Sleep(ctx, m.clock, dialEvery) != nil {
			return err
		}
	}
}

func (pluginMachine) Device(p string) (specs.LinuxDevice, error) {
	d, err := oci.DeviceFromPath(p)
	if err != nil {
		return specs.LinuxDevice{}, err
	}
	return *d, nil
}

type pluginUsers struct{ d *Daemon }

func (u pluginUsers) Volumes(driver string) []string {
	vs, err := u.d.volumes.List(context.Background(), map[string][]string{"driver": {driver}})
	if err != nil {
		u.d.log.Error("volumes of a plugin not listed", logkey.Driver, driver, logkey.Err, err)
		return []string{"?"} // as if it had some
	}
	out := make([]string, 0, len(vs))
	for _, v := range vs {
		if v.Driver == driver { // the filter takes parts of names
			out = append(out, v.Name)
		}
	}
	return out
}

// managedPlugins shows the registry of volume plugins those that run here.
type managedPlugins struct{ s *managed.Service }

func (m managedPlugins) Find(name string) (plugin.ManagedPlugin, bool) {
	v, ok := m.s.Served(name)
	return plugin.ManagedPlugin(v), ok
}

func (m managedPlugins) Names() []string { return m.s.Drivers() }
