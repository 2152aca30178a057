package volumes

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/volume"
)

// Artifacts keeps volumes in image registries; see internal/ctrd/imagestore.
type Artifacts interface {
	// Push sends what write writes, compressed by zstd.
	Push(ctx context.Context, ref string, annotations map[string]string, write func(io.Writer) error, r image.Remote, p image.Progress) (ocispec.Descriptor, error)
	// Open looks at a volume in a registry; read hands it over as it comes, and what
	// was read counts only if read returns no error.
	Open(ctx context.Context, ref string, r image.Remote) (read func(ctx context.Context, take func(io.Reader) error, p image.Progress) error, err error)
}

func registryArgs(r *http.Request) (string, image.Remote, error) {
	auth, headers := route.Registry(r)
	n, err := reference.ParseNormalizedNamed(r.FormValue("ref"))
	if err != nil {
		return "", image.Remote{}, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	return reference.TagNameOnly(n).String(), image.Remote{Auth: auth, Headers: headers}, nil
}

// push sends a volume to a registry and tells how it gets on.
func (rt *Router) push(w http.ResponseWriter, r *http.Request) error {
	ref, remote, err := registryArgs(r)
	if err != nil {
		return err
	}
	o := volume.ExportOptions{Volume: route.Var(r, "name"), Snapshot: r.FormValue("snapshot"), Live: route.Bool(r, "live")}
	annotations := map[string]string{
		ocispec.AnnotationCreated: rt.clock.Now().UTC().Format(time.RFC3339), ocispec.AnnotationTitle: o.Volume + ".tar.zst", api.AnnotationVolume: o.Volume,
	}
	if o.Snapshot != "" {
		annotations[api.AnnotationSnapshot] = o.Snapshot
	}
	ctx := r.Context()
	out := route.NewMessages(w, image.WriteError)
	p := image.NewProgress(out)
	d, err := rt.artifacts.Push(ctx, ref, annotations, func(to io.Writer) error {
		sent := &shown{w: to, p: p, id: o.Volume}
		c, err := rt.archive.Compress("zstd", sent)
		if err != nil {
			return err
		}
		if err := rt.b.Export(ctx, o, func(dir string) error { return rt.archive.Write(ctx, dir, c) }); err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
		p.Update(o.Volume, "Compressed", 0, 0)
		return nil
	}, remote, p)
	if err == nil {
		p.Message("", ref+": digest: "+d.Digest.String())
		p.Aux(api.VolumePushed{Ref: ref, Digest: d.Digest.String()})
	}
	return out.End(err)
}

// shown tells how much was written, each time that it is a few MB more.
type shown struct {
	w       io.Writer
	n, told int64
	id      string
	p       image.Progress
}

// Write implements io.Writer.
func (s *shown) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	if s.n += int64(n); s.n-s.told >= 4<<20 {
		s.told = s.n
		s.p.Update(s.id, "Compressing", s.n, 0)
	}
	return n, err
}

// pull makes a volume of one in a registry.
func (rt *Router) pull(w http.ResponseWriter, r *http.Request) error {
	ref, remote, err := registryArgs(r)
	if err != nil {
		return err
	}
	o, err := importOptions(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	read, err := rt.artifacts.Open(ctx, ref, remote)
	if err != nil {
		return err
	}
	out := route.NewMessages(w, image.WriteError)
	p := image.NewProgress(out)
	got := api.VolumeImported{}
	v, err := rt.b.Import(ctx, o, func(dir string) error {
		return read(ctx, func(from io.Reader) (err error) {
			got.Files, got.Bytes, err = rt.archive.Extract(ctx, from, dir)
			return err
		}, p)
	})
	if err == nil {
		got.Name = v.Name
		p.Aux(got)
	}
	return out.End(err)
}
