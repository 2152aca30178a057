package buildkit

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/go-archive"
	"github.com/moby/go-archive/chrootarchive"
	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/build"
)

// builds are the running classic builds that have an ID.
type builds struct {
	mu     sync.Mutex // guards cancel
	cancel map[string]context.CancelFunc
}

func (b *builds) add(ctx context.Context, id string) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if id == "" {
		return ctx, cancel
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel[id] = cancel
	return ctx, func() {
		b.mu.Lock()
		delete(b.cancel, id)
		b.mu.Unlock()
		cancel()
	}
}

func (b *builds) cancelAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.cancel {
		c()
	}
}

// Cancel ends a running classic build. Unknown IDs are no error, as in Docker:
// it may just have ended.
func (b *Builder) Cancel(id string) {
	b.builds.mu.Lock()
	defer b.builds.mu.Unlock()
	if c := b.builds.cancel[id]; c != nil {
		c()
	}
}

// Build solves a classic request. The body is the context's tar file, if the
// request names no remote one. It returns the image's ID; a failed command is a
// *build.StepError.
func (b *Builder) Build(ctx context.Context, r build.Request, body io.Reader, progress *build.Classic) (id string, tags []string, err error) {
	o, done, err := b.change(ctx)
	if err != nil {
		return "", nil, err
	}
	defer done()
	ctx, end := b.builds.add(ctx, r.ID)
	defer end()
	defer o.atStop(end)()

	opt, tags, err := solveOpt(r)
	if err != nil {
		return "", nil, err
	}
	if r.Remote == "" {
		dir, err := b.unpack(body)
		if err != nil {
			return "", nil, err
		}
		defer b.dropContext(dir)
		if err := mountContext(&opt, r, dir); err != nil {
			return "", nil, err
		}
	}
	id, err = o.solve(ctx, opt, progress)
	return id, tags, err
}

// BuildInSession solves a request whose context is in a client's session. trace
// gets what the control service says of the build's status, encoded.
func (b *Builder) BuildInSession(ctx context.Context, r build.Request, trace func([]byte) error) (string, error) {
	o, done, err := b.change(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	ctx, end := b.builds.add(ctx, r.ID)
	defer end()
	defer o.atStop(end)()
	upload := r.Remote == build.UploadRequest
	if upload {
		r.Remote = ""
	}
	opt, _, err := solveOpt(r)
	if err != nil {
		return "", err
	}
	if upload {
		dir, err := b.receive(ctx, r.ID)
		if err != nil {
			return "", err
		}
		defer b.dropContext(dir)
		done, err := o.offer(ctx, &opt, r, dir)
		if err != nil {
			return "", err
		}
		defer done()
	}
	req := &controlapi.SolveRequest{
		Ref: r.ID, Session: r.Session, Frontend: opt.Frontend, FrontendAttrs: opt.FrontendAttrs,
		Entitlements: opt.AllowedEntitlements, Cache: &controlapi.CacheOptions{},
	}
	if req.Ref == "" {
		req.Ref = identity.NewID()
	}
	for _, e := range opt.Exports {
		req.Exporters = append(req.Exporters, &controlapi.Exporter{Type: e.Type, Attrs: e.Attrs})
	}
	for _, c := range opt.CacheImports {
		req.Cache.Imports = append(req.Cache.Imports, &controlapi.CacheOptionsEntry{Type: c.Type, Attrs: c.Attrs})
	}
	ctl := o.client.ControlClient()
	status, err := ctl.Status(ctx, &controlapi.StatusRequest{Ref: req.Ref}) // waits for the build to begin
	if err != nil {
		return "", err
	}
	var resp *controlapi.SolveResponse
	var g errgroup.Group // each ends with the build
	g.Go(func() (err error) {
		resp, err = ctl.Solve(ctx, req)
		if err != nil {
			end() // a build that never began has no status that ends
		}
		return err
	})
	g.Go(func() error { return forward(status, trace) })
	if err := g.Wait(); err != nil {
		return "", explain(err)
	}
	return resp.GetExporterResponse()[exptypes.ExporterImageDigestKey], nil
}

// forward passes a build's status on until it ends. How the build ended is told
// by its own call.
func forward(status controlapi.Control_StatusClient, trace func([]byte) error) error {
	for {
		s, err := status.Recv()
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		b, err := s.MarshalVT()
		if err != nil {
			return fmt.Errorf("encode the build's status: %w", err)
		}
		if err := trace(b); err != nil {
			return err
		}
	}
}

// solve runs the solver and tells how it goes.
func (o *opened) solve(ctx context.Context, opt bkclient.SolveOpt, progress *build.Classic) (string, error) {
	status := make(chan *bkclient.SolveStatus)
	var resp *bkclient.SolveResponse
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		resp, err = o.client.Solve(ctx, nil, opt, status) // closes status
		return err
	})
	g.Go(func() error {
		for s := range status {
			tell(progress, s)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return "", fmt.Errorf("build canceled: %w", context.Canceled)
		}
		if step, ok := build.AsStepError(err.Error()); ok {
			return "", step
		}
		return "", explain(err)
	}
	return resp.ExporterResponse[exptypes.ExporterImageDigestKey], nil
}

// explain takes BuildKit's wrapping off an error, and shows the lines of the
// Dockerfile that it is about.
func explain(err error) error {
	var text strings.Builder
	text.WriteString(strings.TrimPrefix(err.Error(), "failed to solve: "))
	for _, s := range bkerrdefs.Sources(err) {
		text.WriteByte('\n')
		if s.Print(&text) != nil {
			break // never: a Builder takes everything
		}
	}
	return fault.New(errdefs.ErrInvalidArgument, "%s", strings.TrimRight(text.String(), "\n"))
}

func tell(progress *build.Classic, s *bkclient.SolveStatus) {
	for _, v := range s.Vertexes {
		progress.Step(build.Step{
			ID: v.Digest.String(), Name: v.Name, Started: v.Started != nil, Cached: v.Cached,
		})
	}
	for _, l := range s.Logs {
		progress.Output(l.Vertex.String(), l.Data)
	}
	for _, w := range s.Warnings {
		progress.Warning(string(w.Short))
	}
}

// unpack extracts a context to a directory of its own.
func (b *Builder) unpack(body io.Reader) (string, error) {
	dir, err := os.MkdirTemp(b.cfg.Root, "context-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the build context: %w", err)
	}
	err = b.unpackTo(body, dir)
	if err == nil {
		// The archive ends before its body does. As long as a request's body was not
		// read to its end, the server does not look whether the client is still
		// there, and a build would outlive it.
		if _, err = io.Copy(io.Discard, body); err != nil {
			err = fault.Wrap(errdefs.ErrInvalidArgument, err, "read what follows the build context")
		}
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func (b *Builder) unpackTo(body io.Reader, dir string) (err error) {
	const what = "read the build context"
	r, err := roomAt(b.cfg.Root)
	if err != nil {
		return err
	}
	plain, err := compression.DecompressStream(body)
	if err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, what)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	fits := within(plain, r, "the build context")
	defer func() { err = errors.Join(err, fits.Close()) }()
	// Whatever is in the archive, nothing of it lands outside. Device nodes have no
	// place in a context, and its owners none on this machine.
	if err := chrootarchive.UntarUncompressed(fits, dir, &archive.TarOptions{NoLchown: true}); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, what)
	}
	return stamp(dir)
}

// stamp puts a digest of each file's content into the nanoseconds of its time.
// BuildKit takes a file for the one it has from an earlier build if size and time
// are the same, and the times in a client's tar are whole seconds: a file that is
// written twice in a second would be built in its older form.
func stamp(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the build context: %w", err)
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		digest := crc64.New(stamps)
		_, err = io.Copy(digest, f)
		st, serr := f.Stat()
		if err = errors.Join(err, serr, f.Close()); err != nil {
			return err
		}
		at := time.Unix(st.ModTime().Unix(), int64(digest.Sum64()%uint64(time.Second))) //nolint:gosec // below a second
		return root.Chtimes(path, at, at)
	})
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("tell the files of the build context apart: %w", err)
	}
	return nil
}

var stamps = crc64.MakeTable(crc64.ECMA)

// mountContext offers the context's directory to the frontend.
func mountContext(opt *bkclient.SolveOpt, r build.Request, dir string) error {
	name := r.Dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	if !filepath.IsLocal(filepath.Clean(name)) {
		return fault.New(errdefs.ErrInvalidArgument, "the Dockerfile (%s) must be within the build context", name)
	}
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return fmt.Errorf("open the build context: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, os.ErrNotExist) {
		return fault.New(errdefs.ErrInvalidArgument, "Cannot locate specified Dockerfile: %s", name)
	}
	opt.LocalMounts = map[string]fsutil.FS{"context": files, "dockerfile": files}
	opt.FrontendAttrs["filename"] = filepath.Clean(name)
	return nil
}

// solveOpt puts a request into BuildKit's words.
func solveOpt(r build.Request) (opt bkclient.SolveOpt, tags []string, err error) {
	var names []string
	for _, t := range r.Tags {
		ref, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return opt, nil, fault.New(errdefs.ErrInvalidArgument, "invalid tag %q: %s", t, err)
		}
		ref = reference.TagNameOnly(ref)
		if !slices.Contains(names, ref.String()) {
			names = append(names, ref.String())
			tags = append(tags, reference.FamiliarString(ref))
		}
	}
	attrs := map[string]string{"image-resolve-mode": "local"}
	if r.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	if r.NoCache {
		attrs["no-cache"] = ""
	}
	for k, v := range map[string]string{"target": r.Target, "platform": r.Platform, "context": r.Remote} {
		if v != "" {
			attrs[k] = v
		}
	}
	if r.Dockerfile != "" && (r.Remote != "" || r.Session != "") {
		attrs["filename"] = r.Dockerfile
	}
	for k, v := range r.Args {
		if v != nil {
			attrs["build-arg:"+k] = *v
		}
	}
	for k, v := range r.Labels {
		attrs["label:"+k] = v
	}
	if err := networkMode(attrs, &opt, r.Network); err != nil {
		return opt, nil, err
	}
	if len(r.ExtraHosts) > 0 {
		var hosts []string
		for _, h := range r.ExtraHosts {
			name, addr, ok := strings.Cut(h, ":")
			if !ok {
				return opt, nil, fault.New(errdefs.ErrInvalidArgument, "bad format for add-host: %q", h)
			}
			hosts = append(hosts, name+"="+addr)
		}
		attrs["add-hosts"] = strings.Join(hosts, ",")
	}
	if r.ShmSize > 0 {
		attrs["shm-size"] = strconv.FormatInt(r.ShmSize, 10)
	}
	if slices.Contains(r.Ulimits, nil) {
		return opt, nil, fault.New(errdefs.ErrInvalidArgument, "an ulimit of the build is null")
	}
	if len(r.Ulimits) > 0 {
		attrs["ulimit"] = ulimits(r.Ulimits)
	}
	opt.Frontend, opt.FrontendAttrs = "dockerfile.v0", attrs
	for _, out := range r.Outputs {
		attrs := maps.Clone(out.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		opt.Exports = append(opt.Exports, bkclient.ExportEntry{Type: out.Type, Attrs: attrs})
	}
	if len(r.Outputs) == 0 {
		opt.Exports = []bkclient.ExportEntry{{Type: engineExporter, Attrs: map[string]string{}}}
	}
	if len(names) > 0 {
		for _, e := range opt.Exports {
			if e.Type == engineExporter || e.Type == bkclient.ExporterImage {
				e.Attrs[string(exptypes.OptKeyName)] = strings.Join(names, ",")
			}
		}
	}
	for _, ref := range r.CacheFrom {
		opt.CacheImports = append(opt.CacheImports, bkclient.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	opt.Session = []session.Attachable{credentials{r.Auth}}
	return opt, tags, nil
}

// networkMode chooses the steps' network: BuildKit knows these three.
func networkMode(attrs map[string]string, opt *bkclient.SolveOpt, mode string) error {
	switch mode {
	case "", "default", "bridge":
	case "none":
		attrs["force-network-mode"] = mode
	case "host":
		attrs["force-network-mode"] = mode
		opt.AllowedEntitlements = []string{entitlements.EntitlementNetworkHost.String()}
	default:
		return fault.New(errdefs.ErrInvalidArgument, "network mode %q not supported by BuildKit: use default, host or none", mode)
	}
	return nil
}

func ulimits(list []*container.Ulimit) string {
	var out []string
	for _, u := range list {
		out = append(out, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	return strings.Join(out, ",")
}
