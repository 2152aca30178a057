package ctrd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stored is a blob or a layer as it lies on the disk.
type Stored struct {
	Path string
	// Part names it as image.Service.Weigh does, "blob DIGEST" or "layer NAME"; empty
	// where the engine's records do not know it.
	Part     string
	Writable bool   // a layer that is not committed
	Name     string // of a layer: a container's ID, say
	// Refs says that an image, a container, a lease or another thing that has them
	// refers to it. What nothing refers to goes with the next collection.
	Refs bool
}

// OnDisk lists the blobs and layers that are on the disk.
func (s *Server) OnDisk(ctx context.Context) ([]Stored, error) {
	ctx = in(ctx)
	// First the disk: what is made after that is known to the records later on.
	blobs, err := filepath.Glob(filepath.Join(s.cfg.Root, "content", "blobs", "*", "*"))
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(s.cfg.Root, "snapshots", "snapshots", "*"))
	if err != nil {
		return nil, err
	}
	g := graph{edges: map[string][]string{}, live: map[string]bool{}, known: map[string]bool{}, writable: map[string]bool{}}
	all, err := namespaceStore{s.meta}.List(ctx) // BuildKit keeps the history of builds in one of its own
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for _, ns := range all {
		if err := s.readGraph(namespaces.WithNamespace(ctx, ns), &g); err != nil {
			return nil, err
		}
	}
	g.mark()
	var out []Stored
	for _, p := range blobs {
		part := "blob " + filepath.Base(filepath.Dir(p)) + ":" + filepath.Base(p)
		b := Stored{Path: p, Refs: g.live[part]}
		if g.known[part] {
			b.Part = part
		}
		out = append(out, b)
	}
	names, err := s.snapshotNames(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range dirs {
		l := Stored{Path: p}
		if name := names[filepath.Base(p)]; g.known["layer "+name] {
			l.Part, l.Name = "layer "+name, name
			l.Refs, l.Writable = g.live[l.Part], g.writable[l.Part]
		}
		out = append(out, l)
	}
	return out, nil
}

// snapshotNames tells the names of layers by those of their directories.
func (s *Server) snapshotNames(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	err := s.snapMeta.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // none was ever made
		}
		for dir, key := range ids { // NAMESPACE/NUMBER/NAME
			if parts := strings.SplitN(key, "/", 3); len(parts) == 3 { //nolint:mnd // as the metadata store writes them
				out[dir] = parts[2]
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read metadata of snapshots: %w", err)
	}
	return out, nil
}

// graph is what refers to what, by parts.
type graph struct {
	edges    map[string][]string
	live     map[string]bool // at first, the roots
	known    map[string]bool
	writable map[string]bool
}

func (g *graph) mark() {
	var todo []string
	for p := range g.live {
		todo = append(todo, p)
	}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, to := range g.edges[p] {
			if !g.live[to] {
				g.live[to] = true
				todo = append(todo, to)
			}
		}
	}
}

// labels reads references of the garbage collector's labels.
func (g *graph) labels(from string, labels map[string]string) {
	for k, v := range labels {
		switch {
		case k == "containerd.io/gc.root":
			g.live[from] = true
		case strings.HasPrefix(k, "containerd.io/gc.ref.content"):
			g.edges[from] = append(g.edges[from], "blob "+v)
		case strings.HasPrefix(k, "containerd.io/gc.ref.snapshot."+Snapshotter):
			g.edges[from] = append(g.edges[from], "layer "+v)
		case strings.HasPrefix(k, gcBackRef):
			g.edges["layer "+v] = append(g.edges["layer "+v], from)
		case strings.HasPrefix(k, "containerd.io/gc.bref.content"):
			g.edges["blob "+v] = append(g.edges["blob "+v], from)
		}
	}
}

func (s *Server) readGraph(ctx context.Context, g *graph) error {
	err := s.meta.ContentStore().Walk(ctx, func(i content.Info) error {
		part := "blob " + i.Digest.String()
		g.known[part] = true
		g.labels(part, i.Labels)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list content: %w", err)
	}
	err = s.snaps.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		part := "layer " + i.Name
		g.known[part], g.writable[part] = true, i.Kind != snapshots.KindCommitted
		if i.Parent != "" {
			g.edges[part] = append(g.edges[part], "layer "+i.Parent)
		}
		g.labels(part, i.Labels)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list layers: %w", err)
	}
	images, err := s.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, i := range images {
		root := "image " + i.Name
		g.live[root], g.live["blob "+i.Target.Digest.String()] = true, true
		g.labels(root, i.Labels)
	}
	containers, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list the engine's containers: %w", err)
	}
	for _, c := range containers {
		root := "container " + c.ID
		g.live[root] = true
		if c.SnapshotKey != "" {
			g.live["layer "+c.SnapshotKey] = true
		}
		g.labels(root, c.Labels)
	}
	return s.readLeases(ctx, g)
}

func (s *Server) readLeases(ctx context.Context, g *graph) error {
	m := s.client.LeasesService()
	all, err := m.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range all {
		rs, err := m.ListResources(ctx, leases.Lease{ID: l.ID})
		if errdefs.IsNotFound(err) {
			continue // released meanwhile
		}
		if err != nil {
			return fmt.Errorf("list what lease %s holds: %w", l.ID, err)
		}
		for _, r := range rs {
			switch r.Type {
			case "content":
				g.live["blob "+r.ID] = true
			case "snapshots/" + Snapshotter:
				g.live["layer "+r.ID] = true
			}
		}
	}
	return nil
}

// Sweep removes what nothing refers to, on the disk too: a collection looks there
// only for kinds of things of which its records lost one, and so never finds what
// they never knew. Files that it cannot
// remove it logs.
func (s *Server) Sweep(ctx context.Context) error {
	ctx = in(ctx)
	// One of each kind, made for this: no lease holds them, they go at once.
	const name = "sweep"
	cs := s.meta.ContentStore()
	d := digest.FromString(name)
	err := content.WriteBlob(ctx, cs, name, strings.NewReader(name), ocispec.Descriptor{Digest: d, Size: int64(len(name))})
	if err == nil {
		err = cs.Delete(ctx, d)
	}
	var errs []error // a full disk is no reason not to collect what can be collected
	if err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("have content looked at: %w", err))
	}
	if _, err = s.snaps.Prepare(ctx, name, ""); err == nil || errdefs.IsAlreadyExists(err) {
		err = s.snaps.Remove(ctx, name)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("have layers looked at: %w", err))
	}
	return errors.Join(append(errs, s.Collect(ctx))...)
}
