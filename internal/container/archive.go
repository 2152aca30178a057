package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	archive "github.com/moby/go-archive"
	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/fsview"
)

// view is a container's file system, entered.
type view struct {
	*fsview.View
	rec   Record
	leave func() // after the view is closed
}

func (v *view) close() {
	v.Close()
	v.leave()
}

// openView enters the file system of a container with its mounts. That of a
// running one is entered where its processes are; one that does not run is
// mounted for the time, and cannot be started meanwhile. The caller closes it.
func (s *Service) openView(ctx context.Context, c *Container) (*view, error) {
	c.op.Lock()
	r := c.record()
	switch {
	case c.gone() || r.Phase == Removing || r.Phase == Dead:
		c.op.Unlock()
		return nil, conflict("container %s is marked for removal", r.ID)
	case r.Phase.alive():
		c.op.Unlock()
		return s.enterRunning(ctx, r)
	}
	v, err := s.mountStopped(ctx, c, r)
	if err != nil {
		c.op.Unlock()
	}
	return v, err
}

func (s *Service) enterRunning(ctx context.Context, r Record) (*view, error) {
	v, err := fsview.Enter(r.Pid, func() error {
		st, err := s.d.Runtime.State(ctx, r.ID, "")
		if err != nil {
			return err
		}
		if st.Pid != r.Pid || st.Status == TaskStopped {
			return errNotRunning(r.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &view{View: v, rec: r, leave: func() {}}, nil
}

// mountStopped assembles the file system of a container whose op the caller
// holds; leaving gives op back.
func (s *Service) mountStopped(ctx context.Context, c *Container, r Record) (_ *view, err error) {
	undo := func() { s.unmountStopped(context.WithoutCancel(ctx), &r) }
	defer func() {
		if err != nil {
			undo()
		}
	}()
	layer, err := s.d.Rootfs.Mount(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if r.Phase == Created {
		// As the first start will do: clients may copy there before.
		if err := makeWorkdir(layer.Merged, r.Config.WorkingDir); err != nil {
			return nil, err
		}
	}
	binds := s.networkFiles(&r)
	for i, m := range r.Mounts {
		b := fsview.Bind{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
		switch m.Type {
		case mount.TypeVolume:
			b.Source, err = s.d.Volumes.MountAt(ctx, m.Name, r.ID, m.Target, !m.ReadOnly)
			if err == nil && m.Subpath != "" {
				var release func()
				if b.Source, release, err = s.holdSubpath(r.ID, i, b.Source, m.Subpath); err == nil {
					defer release() // the view has its own copy of the mount by then
				}
			}
			if err != nil {
				return nil, err
			}
		case mount.TypeImage:
			var release func()
			if b.Source, release, err = s.mountImage(ctx, &r, i); err != nil {
				return nil, err
			}
			if release != nil {
				defer release()
			}
		case mount.TypeBind:
			if _, err := os.Stat(b.Source); errors.Is(err, os.ErrNotExist) {
				continue // the next start makes or misses it
			}
		default:
			continue // memory, which is empty while nothing runs
		}
		binds = append(binds, b)
	}
	v, err := fsview.Assemble(layer.Merged, binds)
	if err != nil {
		return nil, err
	}
	return &view{View: v, rec: r, leave: func() { undo(); c.op.Unlock() }}, nil
}

// networkFiles are the files that the daemon wrote for the last run of a
// container, at the places where its processes saw them.
func (s *Service) networkFiles(r *Record) []fsview.Bind {
	if r.StartedAt.IsZero() || r.HostConfig.NetworkMode.IsContainer() {
		return nil
	}
	var out []fsview.Bind
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		b := fsview.Bind{Source: filepath.Join(s.dir(r.ID), name), Target: "/etc/" + name, ReadOnly: r.HostConfig.ReadonlyRootfs}
		mine := slices.ContainsFunc(r.Mounts, func(m Mount) bool { return m.Target == b.Target || m.Target == "/etc" })
		if !mine && s.d.Host.Exists(b.Source) {
			out = append(out, b)
		}
	}
	return out
}

func (s *Service) unmountStopped(ctx context.Context, r *Record) {
	err := s.d.Rootfs.Unmount(ctx, r.ID)
	for _, id := range imageLayers(r) {
		err = errors.Join(err, s.d.Rootfs.Unmount(ctx, id))
	}
	for _, m := range r.Mounts {
		if m.Type == mount.TypeVolume && m.Name != "" {
			err = errors.Join(err, s.d.Volumes.Unmount(ctx, m.Name, r.ID))
		}
	}
	if err != nil {
		s.d.Log.Warn("file system of stopped container stays mounted", logkey.Container, r.ID, logkey.Err, err)
	}
}

// fileError words an error of a path for the client.
func fileError(err error, path, name string) error {
	if errors.Is(err, os.ErrNotExist) && !errdefs.IsInvalidArgument(err) {
		return fault.New(errdefs.ErrNotFound, "Could not find the file %s in container %s", path, name)
	}
	return err
}

// StatPath describes a file of a container.
func (s *Service) StatPath(ctx context.Context, name, path string) (container.PathStat, error) {
	c, err := s.lookup(name)
	if err != nil {
		return container.PathStat{}, err
	}
	v, err := s.openView(ctx, c)
	if err != nil {
		return container.PathStat{}, err
	}
	defer v.close()
	st, err := v.Stat(path)
	return st, fileError(err, path, name)
}

// ArchivePath gives a file or directory of a container as a tar stream, which
// the caller closes.
func (s *Service) ArchivePath(ctx context.Context, name, path string) (io.ReadCloser, container.PathStat, error) {
	var st container.PathStat
	c, err := s.lookup(name)
	if err != nil {
		return nil, st, err
	}
	v, err := s.openView(ctx, c)
	if err != nil {
		return nil, st, err
	}
	if st, err = v.Stat(path); err != nil {
		v.close()
		return nil, st, fileError(err, path, name)
	}
	tar, err := v.Tar(path, st)
	if err != nil {
		v.close()
		return nil, st, err
	}
	s.emit(v.rec, events.ActionArchivePath, nil)
	return &viewReader{ReadCloser: tar, v: v}, st, nil
}

// viewReader leaves the view with the end of the stream.
type viewReader struct {
	io.ReadCloser
	v    *view
	once sync.Once
}

func (r *viewReader) Close() error {
	err := r.ReadCloser.Close() // makes the writer inside give up
	r.once.Do(r.v.close)
	return err
}

// ExtractToDir unpacks a tar stream into a directory of a container.
func (s *Service) ExtractToDir(ctx context.Context, name, path string, noOverwriteDirNonDir, copyUIDGID bool, content io.Reader) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	options, cleanup, err := archive.WithProcSelfFD(&archive.TarOptions{NoOverwriteDirNonDir: noOverwriteDirNonDir})
	if err != nil {
		return err
	}
	defer cleanup()
	// Decompressors may be programs: they run outside, where programs are ours.
	plain, err := compression.DecompressStream(content)
	if err != nil {
		return invalid("%v", err)
	}
	defer plain.Close()
	v, err := s.openView(ctx, c)
	if err != nil {
		return err
	}
	defer v.close()
	if err := extract(v.View, &v.rec, path, copyUIDGID, plain, options); err != nil {
		return fileError(err, path, name)
	}
	s.emit(v.rec, events.ActionExtractToDir, nil)
	return nil
}

// extract unpacks into a directory that the container could write to.
func extract(v *fsview.View, r *Record, path string, copyUIDGID bool, tar io.Reader, options *archive.TarOptions) error {
	return v.Untar(path, tar, options, func(dir string) error {
		if err := writable(r, dir); err != nil {
			return err
		}
		if copyUIDGID && r.Config.User != "" {
			u, err := lookupUser("/", r.Config.User, nil)
			if err != nil {
				return invalid("%v", err)
			}
			options.ChownOpts = &archive.ChownOpts{UID: int(u.UID), GID: int(u.GID)}
		}
		return nil
	})
}

// writable refuses places that the container itself could not write to.
func writable(r *Record, abs string) error {
	var at *Mount
	for i := range r.Mounts {
		m := &r.Mounts[i]
		if inside(abs, m.Target) && (at == nil || len(m.Target) > len(at.Target)) {
			at = m
		}
	}
	switch {
	case at != nil && at.ReadOnly:
		return invalid("mounted volume is marked read-only")
	case at == nil && r.HostConfig.ReadonlyRootfs && !inTmpfs(r, abs):
		return invalid("container rootfs is marked read-only")
	}
	return nil
}

func inTmpfs(r *Record, abs string) bool {
	for target := range r.HostConfig.Tmpfs {
		if inside(abs, filepath.Clean(target)) {
			return r.Phase.alive() // else it would end up in the layer
		}
	}
	return false
}

func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// Export writes the container's own file system, without its mounts, as a tar stream.
func (s *Service) Export(ctx context.Context, name string, w io.Writer) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	r := c.record()
	switch r.Phase {
	case Dead:
		c.op.Unlock()
		return conflict("You cannot export container %s which is Dead", r.ID)
	case Removing:
		c.op.Unlock()
		return conflict("You cannot export container %s which is being removed", r.ID)
	default: // the layer is there
	}
	v, err := s.openLayer(ctx, c, r)
	if err != nil {
		return fmt.Errorf("Error exporting container %s: %w", name, err)
	}
	defer v.close()
	tar, err := archive.NewTarballer("/", &archive.TarOptions{Compression: compression.None})
	if err != nil {
		return err
	}
	v.Go(tar.Do)
	stop := context.AfterFunc(ctx, func() { _ = tar.Reader().Close() })
	defer stop()
	_, err = io.Copy(w, tar.Reader())
	_ = tar.Reader().Close() // makes the writer inside give up
	if err != nil {
		return fmt.Errorf("Error exporting container %s: %w", name, err)
	}
	s.emit(r, events.ActionExport, nil)
	return nil
}

// openLayer enters the merged layer without the container's mounts. The caller
// holds op, which is given back at once for a running container, else when the
// view is left.
func (s *Service) openLayer(ctx context.Context, c *Container, r Record) (*view, error) {
	running := r.Phase.alive()
	leave := func() {
		if err := s.d.Rootfs.Unmount(context.WithoutCancel(ctx), r.ID); err != nil {
			s.d.Log.Warn("file system of stopped container stays mounted", logkey.Container, r.ID, logkey.Err, err)
		}
		c.op.Unlock()
	}
	layer, err := s.d.Rootfs.Mount(ctx, r.ID)
	if err == nil {
		var v *fsview.View
		if v, err = fsview.Assemble(layer.Merged, nil); err == nil {
			if running {
				// The view has its own copy of the mount: an end of the container
				// does not take it away.
				leave = func() {}
				c.op.Unlock()
			}
			return &view{View: v, rec: r, leave: leave}, nil
		}
	}
	if running {
		c.op.Unlock()
	} else {
		leave()
	}
	return nil, err
}
