package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/archive"
	"holdfast.dev/holdfast/internal/volume/sendstream"
)

var _ volume.Sender = (*Driver)(nil)

func noChanges(v volume.Spec, since string) error {
	return fault.New(errdefs.ErrNotImplemented, "volume driver local sends and receives volume %s whole, not what changed since %s", v.Name, since)
}

// Send implements volume.Sender: the stream is a tar.
func (d *Driver) Send(ctx context.Context, v volume.Spec, snapshot, since string, to io.Writer) error {
	if err := elsewhere(v); err != nil {
		return err
	}
	if since != "" {
		return noChanges(v, since)
	}
	path := d.Path(v)
	if snapshot != "" {
		path = d.SnapshotPath(v, snapshot)
	}
	if err := archive.Write(ctx, path, to); err != nil {
		return fmt.Errorf("send volume %s: %w", v.Name, err)
	}
	return nil
}

// Receive implements volume.Sender. A snapshot is made aside and renamed.
func (d *Driver) Receive(ctx context.Context, v volume.Spec, snapshot, since string, from io.Reader) (volume.Made, error) {
	if err := elsewhere(v); err != nil {
		return volume.Made{}, err
	}
	if since != "" {
		return volume.Made{}, noChanges(v, since)
	}
	if snapshot == "" {
		made, err := receive(ctx, from, d.Path(v))
		if err != nil {
			return volume.Made{}, fmt.Errorf("receive volume %s: %w", v.Name, err)
		}
		return made, failpoint.Hit("local.receive.made")
	}
	to, aside := d.SnapshotPath(v, snapshot), d.snapshotAside(v, newPrefix, snapshot)
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		return volume.Made{}, taken(to, err)
	}
	if err := makeDir(filepath.Dir(to)); err != nil {
		return volume.Made{}, err
	}
	err := os.RemoveAll(aside)
	if err == nil {
		err = os.Mkdir(aside, 0o700)
	}
	var made volume.Made
	if err == nil {
		made, err = receive(ctx, from, aside)
	}
	if err == nil {
		err = failpoint.Hit("local.receive.made")
	}
	if err == nil {
		err = moveDurably(aside, to)
	}
	if err != nil {
		return volume.Made{}, errors.Join(fmt.Errorf("receive snapshot %s of volume %s: %w", snapshot, v.Name, err), d.RemoveSnapshot(context.WithoutCancel(ctx), v, snapshot))
	}
	return made, nil
}

// receive makes the tree of a stream in an empty directory and syncs it.
func receive(ctx context.Context, from io.Reader, dir string) (_ volume.Made, err error) {
	b := bufio.NewReaderSize(from, 1<<18)
	magic, err := b.Peek(len(sendstream.Magic))
	if err != nil && !errors.Is(err, io.EOF) {
		return volume.Made{}, err
	}
	if string(magic) != sendstream.Magic {
		r, err := archive.Extract(ctx, b, dir)
		return volume.Made{Method: volume.MethodStream, Files: r.Files, Bytes: r.Bytes}, err
	}
	s, err := sendstream.Begin(b)
	if err != nil {
		return volume.Made{}, err
	}
	if s.Incremental() {
		return volume.Made{}, fault.New(errdefs.ErrNotImplemented, "volume driver local receives volumes whole, and the stream tells of changes only")
	}
	root, err := os.Open(dir)
	if err != nil {
		return volume.Made{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	r, err := s.Apply(ctx, root, nil)
	if err == nil {
		err = os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
	}
	return volume.Made{Method: volume.MethodStream, Files: r.Files, Bytes: r.Written}, err
}
