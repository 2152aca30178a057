package imagestore

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

const (
	// entryLimit bounds the entries of an archive: each is remembered.
	entryLimit = 20000
	// layerLimit is more than overlay can mount.
	layerLimit = 500

	dockerManifest = "manifest.json"
)

// Load implements image.Archives: it reads the archive once, writing blobs and
// unpacking layers as they come, then finds out what they are.
func (s *Store) Load(ctx context.Context, r io.Reader, want []ocispec.Platform, p image.Progress) ([]image.Loaded, error) {
	l := &loader{s: s, ctx: s.ns(ctx), want: want, p: p, blobs: map[string]blob{}, links: map[string]string{}, docs: map[string][]byte{}}
	defer s.forget()
	defer func() { s.dropAll(l.ctx, l.ready()) }()
	in := bufio.NewReaderSize(r, 64<<10)
	f, err := sniff(in)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	raw, err := decompress(in, f)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	if err := l.read(tar.NewReader(raw)); err != nil {
		return nil, refuse(err)
	}
	out, err := l.images()
	if err != nil {
		return nil, refuse(err)
	}
	return out, nil
}

// loader is one archive being loaded.
type loader struct {
	s    *Store
	ctx  context.Context
	want []ocispec.Platform
	p    image.Progress

	blobs map[string]blob
	links map[string]string
	docs  map[string][]byte // index.json, manifest.json, oci-layout
	used  map[digest.Digest]staged
}

// ready returns the staged layers by diff ID, always the same map.
func (l *loader) ready() map[digest.Digest]staged {
	if l.used == nil {
		l.used = map[digest.Digest]staged{}
		for _, b := range l.blobs {
			if b.staged.key == "" {
				continue
			}
			if had, ok := l.used[b.diffID]; ok && had.key != b.staged.key {
				l.s.drop(l.ctx, had.key)
			}
			l.used[b.diffID] = b.staged
		}
	}
	return l.used
}

func (l *loader) read(tr *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return fault.New(errdefs.ErrInvalidArgument, "the archive is empty")
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if n >= entryLimit {
			return fault.New(errdefs.ErrInvalidArgument, "the archive has more than %d entries", entryLimit)
		}
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if err := l.entry(tr, h); err != nil {
			return fmt.Errorf("read %q of the archive: %w", h.Name, err)
		}
	}
}

func (l *loader) entry(tr *tar.Reader, h *tar.Header) error {
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink:
		l.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	case tar.TypeLink:
		l.links[name] = path.Clean(h.Linkname)
		return nil
	default:
		return nil // directories; anything else has no place in an image archive and no effect
	}
	switch name {
	case ocispec.ImageLayoutFile, ocispec.ImageIndexFile, dockerManifest:
		if _, twice := l.docs[name]; twice {
			return fault.New(errdefs.ErrInvalidArgument, "it is there twice")
		}
		if h.Size > jsonLimit {
			return fault.New(errdefs.ErrInvalidArgument, "%d bytes are too much for it", h.Size)
		}
		b, err := io.ReadAll(io.LimitReader(tr, jsonLimit))
		l.docs[name] = b
		return err
	}
	if skip, err := l.present(name); skip || err != nil {
		return err
	}
	id := shortName(name)
	step := stepper(h.Size)
	b, err := l.s.ingest(l.ctx, tr, h.Size, func(n int64) {
		if step(n) {
			l.p.Update(id, "Loading layer", n, h.Size)
		}
	})
	if err != nil {
		return err
	}
	if old, ok := l.blobs[name]; ok {
		l.s.drop(l.ctx, old.staged.key)
	}
	l.blobs[name] = b
	return nil
}

// present recognises a blob of an OCI layout, named by its digest, that is
// already here: it need not be written again.
func (l *loader) present(name string) (bool, error) {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	if !ok {
		return false, nil
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if d.Validate() != nil {
		return false, nil
	}
	info, err := l.s.d.Content.Info(l.ctx, d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The lease shall hold it, as if it had just been written.
	if err := l.s.hold(l.ctx, d); err != nil {
		return false, err
	}
	b := blob{digest: d, size: info.Size}
	if u := info.Labels["containerd.io/uncompressed"]; u != "" {
		b.layer, b.diffID = true, digest.Digest(u)
	}
	l.blobs[name] = b
	return true, nil
}

// shortName is what progress calls an entry: its digest's or folder's beginning.
func shortName(name string) string {
	dir, base := path.Split(name)
	if base == "layer.tar" {
		base = path.Base(dir)
	}
	base = strings.TrimSuffix(base, ".tar")
	if len(base) > 12 {
		base = base[:12]
	}
	return base
}

// stepper says when progress is worth telling: about 50 times over the whole,
// and never for what is small.
func stepper(total int64) func(int64) bool {
	step := max(total/50, 512<<10)
	next := step
	return func(n int64) bool {
		if n < next && (n < total || total < step) {
			return false
		}
		next = n + step
		return true
	}
}

func (l *loader) images() ([]image.Loaded, error) {
	if layout, ok := l.docs[ocispec.ImageLayoutFile]; ok {
		return l.ociImages(layout)
	}
	if doc, ok := l.docs[dockerManifest]; ok {
		return l.dockerImages(doc)
	}
	return nil, fault.New(errdefs.ErrInvalidArgument, "unrecognized image format: the archive has neither manifest.json nor oci-layout")
}

// blob finds an entry, through at most one link.
func (l *loader) blob(name string) (blob, error) {
	name = path.Clean(name)
	if b, ok := l.blobs[name]; ok {
		return b, nil
	}
	if b, ok := l.blobs[l.links[name]]; ok {
		return b, nil
	}
	return blob{}, fault.New(errdefs.ErrInvalidArgument, "the archive lacks %q, which its manifest names", name)
}

// prepare checks an image of the archive, labels it for the collector and
// unpacks what will run here.
func (l *loader) prepare(target ocispec.Descriptor) error {
	if err := images.Walk(l.ctx, images.SetChildrenLabels(l.s.d.Content, l.s.children), target); err != nil {
		return fmt.Errorf("read image %s: %w", target.Digest, err)
	}
	l.s.forget()
	all, err := l.s.Manifests(l.ctx, target)
	if err != nil {
		return err
	}
	complete := false
	for _, m := range all {
		if m.Kind != image.KindImage || !m.Complete {
			continue
		}
		complete = true
		if len(m.Layers) > layerLimit {
			return fault.New(errdefs.ErrInvalidArgument, "image %s has more than %d layers", m.Descriptor.Digest, layerLimit)
		}
		if !l.wanted(m.Platform) {
			continue
		}
		config, err := l.s.configOf(l.ctx, m.Descriptor)
		if err != nil {
			return err
		}
		if err := l.s.unpack(l.ctx, config, m.Config.RootFS.DiffIDs, m.Layers, l.ready()); err != nil {
			return err
		}
	}
	if !complete {
		return fault.New(errdefs.ErrInvalidArgument, "image %s of the archive is not whole", target.Digest)
	}
	return nil
}

func (l *loader) wanted(p ocispec.Platform) bool {
	if len(l.want) == 0 {
		return matches(l.s.d.Platform, p)
	}
	for _, w := range l.want {
		if matches(w, p) {
			return true
		}
	}
	return false
}

func decode(name string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "parse %s", name)
	}
	return nil
}
