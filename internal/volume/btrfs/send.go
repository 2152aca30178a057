package btrfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/archive"
	"holdfast.dev/holdfast/internal/volume/sendstream"
)

var _ volume.Sender = (*Driver)(nil)

// sendPrefix is of snapshots that are made to be sent; a start removes them.
const sendPrefix = ".send-"

// Send implements volume.Sender: the kernel writes the stream.
func (d *Driver) Send(ctx context.Context, v volume.Spec, snapshot, since string, to io.Writer) (err error) {
	path := d.SnapshotPath(v, snapshot)
	if snapshot == "" {
		if err := os.Mkdir(d.snapshots(v), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		dir, err := os.MkdirTemp(d.snapshots(v), sendPrefix)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, removeAll(dir)) }()
		path = filepath.Join(dir, dataDir)
		if err := copySubvolume(d.Path(v), path, true); err != nil {
			return fmt.Errorf("send volume %s: %w", v.Name, err)
		}
	}
	var parent uint64
	if since != "" {
		err := in(d.SnapshotPath(v, since), func(f *os.File) (err error) { parent, err = subvolumeID(f); return err })
		if err == nil {
			err = d.related(v, path, d.SnapshotPath(v, since))
		}
		if err != nil {
			return fmt.Errorf("send volume %s since %s: %w", v.Name, since, err)
		}
	}
	err = in(path, func(f *os.File) error { return send(ctx, f, parent, to) })
	if err != nil {
		return fmt.Errorf("send volume %s: %w", v.Name, err)
	}
	return nil
}

// related refuses two subvolumes that do not come from one. Files of theirs can
// have the same numbers by chance, and the kernel would take them for one file.
func (d *Driver) related(v volume.Spec, a, b string) error {
	parents := map[[16]byte][16]byte{}
	paths := []string{d.Path(v), a, b}
	es, err := os.ReadDir(d.snapshots(v))
	if err != nil {
		return err
	}
	for _, e := range es {
		paths = append(paths, d.SnapshotPath(v, e.Name()))
	}
	var of [2][16]byte
	for _, p := range paths {
		err := in(p, func(f *os.File) error {
			id, err := identify(f)
			parents[id.uuid] = id.parent
			switch p {
			case a:
				of[0] = id.uuid
			case b:
				of[1] = id.uuid
			}
			return err
		})
		if err != nil && (p == a || p == b || !errors.Is(err, os.ErrNotExist)) { // others may go meanwhile
			return err
		}
	}
	lineage := map[[16]byte]bool{}
	for u := of[0]; u != [16]byte{} && !lineage[u]; u = parents[u] {
		lineage[u] = true
	}
	seen := map[[16]byte]bool{}
	for u := of[1]; u != [16]byte{} && !seen[u]; u = parents[u] {
		if lineage[u] {
			return nil
		}
		seen[u] = true
	}
	return fault.New(errdefs.ErrFailedPrecondition, "the two have nothing in common")
}

// send copies what the kernel writes into a pipe. Closing its other end stops the
// kernel.
func send(ctx context.Context, subvol *os.File, parent uint64, to io.Writer) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // closed twice at worst
	defer stop()
	sent := make(chan error, 1)
	go func() {
		err := sendTo(subvol, parent, w)
		sent <- errors.Join(err, w.Close())
	}()
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, r, make([]byte, 1<<20))
	cerr := r.Close()
	serr := <-sent
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // then the kernel has seen a broken pipe
		return err
	}
	return errors.Join(serr, cerr)
}

// Receive implements volume.Sender. The subvolume is made aside and renamed.
func (d *Driver) Receive(ctx context.Context, v volume.Spec, snapshot, since string, from io.Reader) (_ volume.Made, err error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return volume.Made{}, err
	}
	to, aside := d.Path(v), filepath.Join(d.dir(v), nextDir)
	if snapshot != "" {
		to, aside = d.SnapshotPath(v, snapshot), d.receiveAside(v, snapshot)
		if err := free(to); err != nil {
			return volume.Made{}, err
		}
		if err := os.Mkdir(d.snapshots(v), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return volume.Made{}, err
		}
	}
	if err := removeAll(aside); err != nil {
		return volume.Made{}, err
	}
	made, err := d.receive(ctx, v, since, from, aside, snapshot != "")
	if err == nil && snapshot == "" {
		err = removeAll(to)
		if err == nil {
			err = d.limit(v, aside)
		}
	}
	if err == nil {
		err = failpoint.Hit("btrfs.receive.made")
	}
	if err == nil {
		err = errors.Join(move(aside, to), p.sync())
	}
	if err != nil {
		return volume.Made{}, errors.Join(fmt.Errorf("receive volume %s: %w", v.Name, err), removeAll(aside))
	}
	return made, nil
}

func (d *Driver) receiveAside(v volume.Spec, snapshot string) string {
	return filepath.Join(d.snapshots(v), newPrefix+short(snapshot))
}

// receive makes a subvolume at a path of a stream, which may be a tar.
func (d *Driver) receive(ctx context.Context, v volume.Spec, since string, from io.Reader, at string, keep bool) (volume.Made, error) {
	b := bufio.NewReaderSize(from, 1<<18)
	if magic, err := b.Peek(len(sendstream.Magic)); err != nil && !errors.Is(err, io.EOF) {
		return volume.Made{}, err
	} else if string(magic) != sendstream.Magic {
		if since != "" {
			return volume.Made{}, fault.New(errdefs.ErrInvalidArgument, "this is no stream of changes since %s", since)
		}
		return receiveTar(ctx, b, at, keep)
	}
	s, err := sendstream.Begin(b)
	if err != nil {
		return volume.Made{}, err
	}
	switch {
	case s.Incremental() && since == "":
		return volume.Made{}, fault.New(errdefs.ErrInvalidArgument, "the stream tells of changes only: name the snapshot since which")
	case !s.Incremental() && since != "":
		return volume.Made{}, fault.New(errdefs.ErrInvalidArgument, "this is no stream of changes since %s", since)
	case !s.Incremental():
		err = makeSubvolume(at)
	default:
		err = in(d.SnapshotPath(v, since), func(f *os.File) error { return isParent(f, s, since) })
		if err == nil {
			err = copySubvolume(d.SnapshotPath(v, since), at, false)
		}
	}
	if err != nil {
		return volume.Made{}, err
	}
	var r sendstream.Result
	err = in(at, func(root *os.File) (err error) {
		var parent *os.File
		if since != "" {
			if parent, err = os.Open(d.SnapshotPath(v, since)); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, parent.Close()) }()
		}
		if r, err = s.Apply(ctx, root, parent); err != nil {
			return err
		}
		if !keep {
			return syncPool(root)
		}
		return errors.Join(syncPool(root), setReceived(root, s.UUID, s.Ctransid), setReadOnly(root, true))
	})
	return volume.Made{Method: volume.MethodStream, Files: r.Files, Bytes: r.Written}, err
}

// isParent refuses a snapshot that is not what the stream tells changes to. Both
// are never written to, so their UUIDs tell; it may be the first of the two that
// was made, or what was received of it, whoever sends now.
func isParent(f *os.File, s *sendstream.Stream, name string) error {
	id, err := identify(f)
	if err != nil {
		return err
	}
	if id.received != s.Parent && id.uuid != s.Parent {
		return fault.New(errdefs.ErrFailedPrecondition, "the snapshot %s is not the one that the stream tells changes to", name)
	}
	return nil
}

func makeSubvolume(at string) error {
	return in(filepath.Dir(at), func(dir *os.File) error { return createSubvolume(dir, filepath.Base(at)) })
}

func receiveTar(ctx context.Context, from io.Reader, at string, keep bool) (volume.Made, error) {
	if err := makeSubvolume(at); err != nil {
		return volume.Made{}, err
	}
	r, err := archive.Extract(ctx, from, at)
	if err == nil {
		err = in(at, func(f *os.File) error {
			if err := syncPool(f); err != nil || !keep {
				return err
			}
			return setReadOnly(f, true)
		})
	}
	return volume.Made{Method: volume.MethodStream, Files: r.Files, Bytes: r.Bytes}, err
}
