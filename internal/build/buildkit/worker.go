package buildkit

import (
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/worker/base"

	"holdfast.dev/holdfast/internal/base/fault"
)

// engineExporter is the name by which Docker's clients ask for an image in the
// engine's own list.
const engineExporter = "moby"

// imageWorker is BuildKit's worker with exporters that suit an engine: an image
// goes into the engine's list, unpacked, and keeps a name to live by.
type imageWorker struct {
	*base.Worker
	dangling string
	root     string // on the disk where steps write
	chains   *imageChains

	// asking is held while BuildKit is asked for its usage: it holds records to
	// measure them, and others that ask would take them for used, or for other ones.
	asking sync.Mutex
}

// Exporter implements worker.Worker.
func (w *imageWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	switch name {
	case engineExporter, bkclient.ExporterImage:
		inner, err := w.Worker.Exporter(bkclient.ExporterImage, sm)
		if err != nil {
			return nil, err
		}
		return imageExporter{inner: inner, dangling: strings.TrimSuffix(w.dangling, "@"), local: name == engineExporter}, nil
	}
	return w.Worker.Exporter(name, sm)
}

type imageExporter struct {
	inner    exporter.Exporter
	dangling string
	local    bool // the image is for this engine first of all
}

// quickLevel is gzip's, for images that stay here: compressing took longer than
// the steps themselves. Level 1 takes 0.35 of the default's time and makes layers
// of packages 1.13 times as large (measured with a JDK's 270 MB).
const quickLevel = "1"

// Resolve implements exporter.Exporter: it fills in what an engine wants where
// the client left it open.
func (e imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	names, err := normalize(attrs[string(exptypes.OptKeyName)])
	if err != nil {
		return nil, err
	}
	attrs[string(exptypes.OptKeyName)] = names
	def := func(k exptypes.ImageExporterOptKey, v string) {
		if _, ok := attrs[string(k)]; !ok {
			attrs[string(k)] = v
		}
	}
	if _, chosen := attrs[string(exptypes.OptKeyLayerCompression)]; e.local && !chosen {
		def(exptypes.OptKeyCompressionLevel, quickLevel)
	}
	def(exptypes.OptKeyUnpack, "true")
	def(exptypes.OptKeyDanglingPrefix, e.dangling)
	def(exptypes.OptKeyDanglingEmptyOnly, "true")
	return e.inner.Resolve(ctx, id, attrs)
}

// normalize gives the names their domain and tag: "app" is
// docker.io/library/app:latest.
func normalize(names string) (string, error) {
	if names == "" {
		return "", nil
	}
	var out []string
	for n := range strings.SplitSeq(names, ",") {
		ref, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return "", fault.New(errdefs.ErrInvalidArgument, "invalid tag %q: %s", n, err)
		}
		if _, ok := ref.(reference.Digested); ok {
			return "", fault.New(errdefs.ErrInvalidArgument, "build tag cannot contain a digest: %s", n)
		}
		out = append(out, reference.TagNameOnly(ref).String())
	}
	return strings.Join(out, ","), nil
}

// inNamespace puts the namespace into the contexts of an image store: BuildKit
// does so for its other stores only.
type inNamespace struct {
	s  images.Store
	ns string
}

func (s inNamespace) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.ns)
}

// Get implements images.Store.
func (s inNamespace) Get(ctx context.Context, name string) (images.Image, error) {
	return s.s.Get(s.in(ctx), name)
}

// List implements images.Store.
func (s inNamespace) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return s.s.List(s.in(ctx), filters...)
}

// unlisted keeps images from BuildKit where it would find out by itself what is
// shared (imageWorker.usage does): it lists images for nothing else.
type unlisted struct{ inNamespace }

// List implements images.Store.
func (unlisted) List(context.Context, ...string) ([]images.Image, error) { return nil, nil }

// Create implements images.Store.
func (s inNamespace) Create(ctx context.Context, i images.Image) (images.Image, error) {
	return s.s.Create(s.in(ctx), i)
}

// Update implements images.Store.
func (s inNamespace) Update(ctx context.Context, i images.Image, fields ...string) (images.Image, error) {
	return s.s.Update(s.in(ctx), i, fields...)
}

// Delete implements images.Store.
func (s inNamespace) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	return s.s.Delete(s.in(ctx), name, opts...)
}
