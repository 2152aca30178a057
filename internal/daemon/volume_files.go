package daemon

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/containerd/errdefs"
	archive "github.com/moby/go-archive"
	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/container/fsview"
	"holdfast.dev/holdfast/internal/volume"
)

// volumeFiles are the files of volumes for the router of volumes: as those of
// containers, with the volume as all there is.
type volumeFiles struct{ volumes *volume.Service }

// inside enters the volume.
func (f volumeFiles) inside(ctx context.Context, name, path string, write bool, do func(*fsview.View) error) error {
	err := f.volumes.Files(ctx, name, write, func(dir string) error {
		v, err := fsview.Assemble(dir, nil)
		if err != nil {
			return err
		}
		defer v.Close()
		return do(v)
	})
	if errors.Is(err, os.ErrNotExist) && !errdefs.IsNotFound(err) {
		return fault.New(errdefs.ErrNotFound, "Could not find the file %s in volume %s", path, name)
	}
	return err
}

// Stat implements the router's Files.
func (f volumeFiles) Stat(ctx context.Context, name, path string) (st container.PathStat, err error) {
	err = f.inside(ctx, name, path, false, func(v *fsview.View) error {
		st, err = v.Stat(path)
		return err
	})
	return st, err
}

// Read implements the router's Files.
func (f volumeFiles) Read(ctx context.Context, name, path string, take func(container.PathStat, io.Reader) error) error {
	return f.inside(ctx, name, path, false, func(v *fsview.View) error {
		st, err := v.Stat(path)
		if err != nil {
			return err
		}
		tar, err := v.Tar(path, st)
		if err != nil {
			return err
		}
		defer tar.Close() // the writer inside gives up
		return take(st, tar)
	})
}

// Write implements the router's Files.
func (f volumeFiles) Write(ctx context.Context, name, path string, noOverwriteDirNonDir bool, content io.Reader) error {
	options, cleanup, err := archive.WithProcSelfFD(&archive.TarOptions{NoOverwriteDirNonDir: noOverwriteDirNonDir})
	if err != nil {
		return err
	}
	defer cleanup()
	// Decompressors may be programs: they run outside.
	plain, err := compression.DecompressStream(content)
	if err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "read the tar")
	}
	defer plain.Close()
	return f.inside(ctx, name, path, true, func(v *fsview.View) error {
		return v.Untar(path, plain, options, nil)
	})
}
