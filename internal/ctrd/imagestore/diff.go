package imagestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/image"
)

// Diff implements image.Layers. The container's snapshot has the container's ID
// as its key. Only the writable directory is walked, not the two trees.
func (s *Store) Diff(ctx context.Context, container string) (image.Layer, bool, error) {
	ctx = s.ns(ctx)
	info, err := s.d.Snapshots.Stat(ctx, container)
	if err != nil {
		return image.Layer{}, false, fmt.Errorf("look at the layer of container %s: %w", container, err)
	}
	upper, err := s.upperDir(ctx, info)
	if err != nil {
		return image.Layer{}, false, err
	}
	base, done, err := s.view(ctx, info.Parent)
	if err != nil {
		return image.Layer{}, false, err
	}
	defer done()

	pr, pw := io.Pipe()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		cw := archive.NewChangeWriter(pw, upper)
		err := fs.DiffDirChanges(ctx, base, upper, fs.DiffSourceOverlayFS, cw.HandleChange)
		if err == nil {
			err = cw.Close()
		}
		pw.CloseWithError(err)
	}()
	in := bufio.NewReaderSize(pr, 64<<10)
	l, err := s.readDiff(ctx, in)
	pr.CloseWithError(io.ErrClosedPipe)
	<-finished
	if err != nil {
		return image.Layer{}, false, fmt.Errorf("store the changes of container %s: %w", container, err)
	}
	return l, l.Size > emptyTar, nil
}

// emptyTar is the length of a tar stream without entries.
const emptyTar = 1024

func (s *Store) readDiff(ctx context.Context, in *bufio.Reader) (image.Layer, error) {
	if b, err := in.Peek(emptyTar + 1); len(b) <= emptyTar {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return image.Layer{}, err
	}
	return s.readPlain(ctx, in, plain)
}

// upperDir finds the writable directory of a container's snapshot.
func (s *Store) upperDir(ctx context.Context, info snapshots.Info) (string, error) {
	mounts, err := s.d.Snapshots.Mounts(ctx, info.Name)
	if err != nil {
		return "", fmt.Errorf("look at the layer of container %s: %w", info.Name, err)
	}
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		return mounts[0].Source, nil
	}
	if len(mounts) == 1 {
		for _, o := range mounts[0].Options {
			if d, ok := strings.CutPrefix(o, "upperdir="); ok {
				return d, nil
			}
		}
	}
	return "", fmt.Errorf("the layer of container %s has no writable directory: %w", info.Name, errdefs.ErrNotImplemented)
}

// view mounts a committed snapshot read-only; "" is an empty directory.
func (s *Store) view(ctx context.Context, parent string) (string, func(), error) {
	key, err := unique("diff-")
	if err != nil {
		return "", nil, err
	}
	mounts, err := s.d.Snapshots.View(ctx, key, parent)
	if err != nil {
		return "", nil, fmt.Errorf("look at layer %s: %w", parent, err)
	}
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		return mounts[0].Source, func() { s.drop(ctx, key) }, nil
	}
	dir, err := os.MkdirTemp(s.d.TempDir, "diff-")
	if err != nil {
		s.drop(ctx, key)
		return "", nil, fmt.Errorf("make a directory for layer %s: %w", parent, err)
	}
	done := func() {
		// Remove, not RemoveAll: it must never reach into a layer still mounted.
		if err := errors.Join(mount.UnmountAll(dir, 0), os.Remove(dir)); err != nil {
			s.d.Log.Warn("view of a layer not unmounted", logkey.Path, dir, logkey.Err, err)
		}
		s.drop(ctx, key)
	}
	if err := mount.All(mounts, dir); err != nil {
		done()
		return "", nil, fmt.Errorf("mount layer %s: %w", parent, err)
	}
	return dir, done, nil
}
