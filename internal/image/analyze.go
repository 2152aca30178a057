package image

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image/analyze"
)

// Analysis is what an image's layers hold, and with whom it shares them.
type Analysis struct {
	analyze.Report
	ID     string
	Names  []string // familiar
	Blobs  []ocispec.Descriptor
	Diffs  []digest.Digest
	Shared []Shared // most layers first
	Took   time.Duration
}

// Shared is another image that stands on the same lowest layers.
type Shared struct {
	ID     string
	Names  []string // familiar; empty for a dangling image
	Layers int      // how many, from the lowest
	Bytes  int64    // content of their files
}

// AnalyzeOptions select what is analysed and shown.
type AnalyzeOptions struct {
	Platform *ocispec.Platform
	Top      int // how many files to list
	// Progress is told how much of each stored layer has been read. Nil: nobody is.
	Progress Progress
}

// analyzeTold is how often the progress of an analysis is told.
const analyzeTold = 200 * time.Millisecond

// atOnce is how many analyses run at a time: each takes a processor and some memory.
const atOnce = 2

// Analyze reads all layers of an image. It takes as long as unpacking them, less
// what writing them takes.
func (s *Service) Analyze(ctx context.Context, ref string, o AnalyzeOptions) (Analysis, error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return Analysis{}, err
	}
	m, err := s.best(ctx, r.Target, o.Platform)
	if err != nil {
		if errdefs.IsNotFound(err) && o.Platform != nil {
			return Analysis{}, errNoPlatform(ref, *o.Platform)
		}
		return Analysis{}, err
	}
	diffs := m.Config.RootFS.DiffIDs
	if len(m.Layers) != len(diffs) {
		return Analysis{}, fault.New(errdefs.ErrInvalidArgument, "the image's config names %d layers, its manifest %d", len(diffs), len(m.Layers))
	}
	select {
	case s.analyses <- struct{}{}:
	case <-ctx.Done():
		return Analysis{}, context.Cause(ctx)
	}
	defer func() { <-s.analyses }()
	begin := s.d.Clock.Now()
	made := madeBy(m.Config.History, len(diffs))
	var layers []analyze.Source
	for i, d := range m.Layers {
		layers = append(layers, analyze.Source{CreatedBy: made[i], Open: func(ctx context.Context) (io.ReadCloser, error) {
			return s.d.Content.Layer(ctx, d, reading(o.Progress, s.d.Clock.Now, fmt.Sprintf("layer %d/%d", i+1, len(m.Layers)), d.Size))
		}})
	}
	found, err := analyze.Run(ctx, layers, analyze.Options{Top: o.Top, Dir: s.d.TempDir})
	if err != nil {
		return Analysis{}, err
	}
	out := Analysis{Report: found, ID: r.ID(), Blobs: m.Layers, Diffs: diffs}
	same, err := s.sameTarget(ctx, r.Target.Digest)
	if err != nil {
		return Analysis{}, err
	}
	out.Names = familiarNames(same)
	if out.Shared, err = s.sharing(ctx, r.Target.Digest, out); err != nil {
		return Analysis{}, err
	}
	out.Took = s.d.Clock.Now().Sub(begin)
	return out, nil
}

// reading tells the progress of one layer: its begin, its end, and now and then
// between.
func reading(p Progress, now func() time.Time, id string, size int64) func(read int64) {
	if p == nil {
		return func(int64) {}
	}
	p.Update(id, "Reading", 0, size)
	last, done := now(), false
	return func(read int64) {
		switch t := now(); {
		case done:
		case read >= size:
			done = true
			p.Update(id, "Read", size, size)
		case t.Sub(last) >= analyzeTold:
			last = t
			p.Update(id, "Reading", read, size)
		}
	}
}

// madeBy tells for each layer the step that made it. History lists steps that
// made none as well, and may be missing.
func madeBy(steps []ocispec.History, layers int) []string {
	out := make([]string, layers)
	i := 0
	for _, h := range steps {
		if h.EmptyLayer || i == layers {
			continue
		}
		out[i] = h.CreatedBy
		if out[i] == "" {
			out[i] = h.Comment
		}
		i++
	}
	return out
}

func familiarNames(rs []Record) []string {
	out := []string{}
	for _, r := range rs {
		if !r.dangling() {
			out = append(out, r.familiar())
		}
	}
	slices.Sort(out)
	return out
}

// sharing lists the images that stand on lowest layers of the analysed one:
// those are stored once.
func (s *Service) sharing(ctx context.Context, id digest.Digest, a Analysis) ([]Shared, error) {
	records, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	groups := map[digest.Digest][]Record{}
	for _, r := range records {
		groups[r.Target.Digest] = append(groups[r.Target.Digest], r)
	}
	var out []Shared
	for d, rs := range groups {
		if d == id {
			continue
		}
		all, err := s.d.Content.Manifests(ctx, rs[0].Target)
		if err != nil {
			if errdefs.IsNotFound(err) {
				continue // removed just now
			}
			return nil, err
		}
		n := 0
		for _, m := range all {
			n = max(n, common(a.Diffs, m.Config.RootFS.DiffIDs))
		}
		if n == 0 {
			continue
		}
		sh := Shared{ID: d.String(), Names: familiarNames(rs), Layers: n}
		for _, l := range a.Report.Layers[:n] {
			sh.Bytes += l.Bytes
		}
		out = append(out, sh)
	}
	slices.SortFunc(out, func(a, b Shared) int {
		return cmp.Or(cmp.Compare(b.Layers, a.Layers), strings.Compare(strings.Join(append(a.Names, a.ID), " "), strings.Join(append(b.Names, b.ID), " ")))
	})
	return out, nil
}

// common is how many layers, from the lowest, are the same.
func common(a, b []digest.Digest) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
