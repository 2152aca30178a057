package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/dash"
	"holdfast.dev/holdfast/internal/image"
)

// Union implements dash.Backend.
func (b dashboard) Union(ctx context.Context, name string) (dash.Union, error) {
	d := b.d
	c, err := d.containers.Inspect(ctx, name, false)
	if err != nil {
		return dash.Union{}, err
	}
	out := dash.Union{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Image: c.Config.Image}
	layer, err := d.engine.Rootfs().Layer(ctx, c.ID)
	if err != nil {
		return out, err
	}
	upper := dash.UnionLayer{Title: "what the container wrote", Dir: layer.Upper, Bytes: -1, Writable: true, Files: layerDir(layer.Upper)}
	if t, ok := d.ledger.Known(layerKey(c.ID)); ok {
		upper.Bytes = t.Disk
	}
	made, err := d.madeBy(ctx, c.Image)
	if err != nil {
		return out, err
	}
	out.Layers = append(out.Layers, upper)
	for n, dir := range layer.Lower {
		l := dash.UnionLayer{Title: "a layer of the image", Dir: dir, Bytes: -1, Files: layerDir(dir)}
		if m, ok := made[dir]; ok {
			l.Title, l.Bytes = m.what, m.bytes
		} else if n == 0 && len(made) > 0 {
			l.Title = "the engine's places to mount on" // between the image and the container
		}
		out.Layers = append(out.Layers, l)
	}
	return out, nil
}

type madeLayer struct {
	what  string
	bytes int64
}

// madeBy tells what made the layers of an image, by their directories. It knows
// nothing of an image that has gone, or lost its history.
func (d *Daemon) madeBy(ctx context.Context, id string) (map[string]madeLayer, error) {
	out := map[string]madeLayer{}
	in, err := d.images.Inspect(ctx, id, image.InspectOptions{})
	if err != nil {
		return out, nil //nolint:nilerr // its container has the layers all the same
	}
	history, err := d.images.History(ctx, id, nil)
	if err != nil {
		return out, nil //nolint:nilerr // the same
	}
	_, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return nil, err
	}
	var steps []string // that made a layer, the first one first
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Size > 0 {
			steps = append(steps, strings.TrimPrefix(history[i].CreatedBy, "/bin/sh -c "))
		}
	}
	var chain digest.Digest
	for i, diff := range in.RootFS.Layers {
		if i == 0 {
			chain = digest.Digest(diff)
		} else {
			chain = digest.FromString(chain.String() + " " + diff)
		}
		dirs, err := d.imageStore.Dirs(ctx, chain)
		if err != nil || len(dirs) == 0 {
			continue // not unpacked
		}
		m := madeLayer{what: "layer " + chain.Encoded()[:12], bytes: -1}
		if len(steps) == len(in.RootFS.Layers) && steps[i] != "" {
			m.what = steps[i]
		}
		if n, ok := parts[in.ID]["layer "+chain.String()]; ok {
			m.bytes = n
		}
		out[dirs[0]] = m
	}
	return out, nil
}

// layerDir is the directory of one layer.
type layerDir string

var _ dash.LayerFiles = layerDir("")

// Look implements dash.LayerFiles. What containers write is hostile: the kernel
// resolves the path, within the layer and through no link.
func (l layerDir) Look(path string) (dash.LayerEntry, error) {
	rel := strings.TrimPrefix(path, "/")
	if rel == "" {
		rel = "."
	}
	root, err := unix.Open(string(l), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return dash.LayerEntry{}, fmt.Errorf("open layer %s: %w", string(l), err)
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV),
		errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		return dash.LayerEntry{}, nil
	case err != nil:
		return dash.LayerEntry{}, fmt.Errorf("look for %s in layer %s: %w", path, string(l), err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return dash.LayerEntry{}, fmt.Errorf("look at %s in layer %s: %w", path, string(l), err)
	}
	e := dash.LayerEntry{What: dash.File, Bytes: st.Size}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.What, e.Opaque = dash.Folder, opaque(fd)
	case unix.S_IFLNK:
		e.What = dash.Link
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			return e, fmt.Errorf("read link %s in layer %s: %w", path, string(l), err)
		}
		e.Target = string(buf[:n])
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			e.What = dash.Whiteout
		}
	}
	return e, nil
}

// opaque tells whether a folder hides those of lower layers.
func opaque(fd int) bool {
	var buf [8]byte
	n, err := unix.Getxattr(filepath.Join("/proc/self/fd", fmt.Sprint(fd)), "trusted.overlay.opaque", buf[:])
	return err == nil && n == 1 && buf[0] == 'y'
}
