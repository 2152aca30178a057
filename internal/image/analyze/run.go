package analyze

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Source is one layer to read.
type Source struct {
	CreatedBy string
	// Open begins the layer's uncompressed tar stream.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Limits bound what a layer can cost. The zero value of a field is its default.
type Limits struct {
	Layers  int   // 512: what each does to each is kept
	Entries int64 // of all layers: 64 million
	Bytes   int64 // of all uncompressed streams: 1 TiB
	Path    int   // length of a name: 4096, more than which the kernel takes no path
	Spill   int64 // disk: 16 GiB
	Memory  int   // of records that are not on disk yet: 16 MiB
}

// Options say how to analyse.
type Options struct {
	Top    int    // how many paths and contents to list; 0: 10
	Dir    string // for what does not fit into memory; exists
	Limits Limits
	// Progress is told, now and then, which layer is being read, from 1, and how
	// many bytes of all streams have been. May be nil.
	Progress func(layer int, bytes int64)
}

func orElse[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (o *Options) fill() {
	orElse(&o.Top, 10)
	orElse(&o.Limits.Layers, 512)
	orElse(&o.Limits.Entries, 64e6)
	orElse(&o.Limits.Bytes, 1<<40)
	orElse(&o.Limits.Path, 4096)
	orElse(&o.Limits.Spill, 16<<30)
	orElse(&o.Limits.Memory, 16<<20)
	if o.Progress == nil {
		o.Progress = func(int, int64) {}
	}
}

// Run reads the layers, bottom first, and reports. What a layer holds that no
// layer may is errdefs.ErrInvalidArgument.
func Run(ctx context.Context, layers []Source, o Options) (_ Report, err error) {
	o.fill()
	if len(layers) > o.Limits.Layers {
		return Report{}, fault.New(errdefs.ErrInvalidArgument, "the image has %d layers, at most %d can be analysed", len(layers), o.Limits.Layers)
	}
	budget := &spillBudget{left: o.Limits.Spill}
	byPath := newSorter(o.Dir, o.Limits.Memory, budget)
	defer func() { err = errors.Join(err, byPath.close()) }()
	r := reader{out: byPath, limits: o.Limits, progress: o.Progress}
	for i, l := range layers {
		if err := r.layer(ctx, i, l); err != nil {
			return Report{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	byContent := newSorter(o.Dir, o.Limits.Memory, budget)
	defer func() { err = errors.Join(err, byContent.close()) }()
	f := newFold(layers, o.Top, byContent)
	if err := byPath.merge(ctx, f.path); err != nil {
		return Report{}, err
	}
	if err := f.finish(); err != nil {
		return Report{}, err
	}
	c := &contents{fold: f}
	if err := byContent.merge(ctx, c.record); err != nil {
		return Report{}, err
	}
	c.group()
	rep := f.report(r.entries)
	rep.Advice = Advise(rep)
	return rep, nil
}
