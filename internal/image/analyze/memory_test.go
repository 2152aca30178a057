package analyze

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"
)

// many is a layer of small files, made while it is read.
func many(layer, files int) Source {
	return Source{Open: func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			b := bufio.NewWriterSize(w, 256<<10)
			t := tar.NewWriter(b)
			var err error
			for i := 0; i < files && err == nil; i++ {
				h := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: 8, Name: fmt.Sprintf("usr/share/some/package-%d/of/layer-%d/file-%d", i%977, layer*(i%2), i)}
				if err = t.WriteHeader(&h); err == nil {
					_, err = fmt.Fprintf(t, "%08d", i%100000)
				}
			}
			err = errors.Join(err, t.Close(), b.Flush())
			w.CloseWithError(err)
		}()
		return r, nil
	}}
}

// peak runs f and returns the most bytes that were live in the heap meanwhile,
// beyond those before.
func peak(f func()) uint64 {
	// A collector that runs often: what is live is what counts, not what is
	// left to collect.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtime.GC()
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	stop := make(chan struct{})
	var most uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	f()
	close(stop)
	wg.Wait()
	return max(most, before) - before
}

// The heap holds what Limits.Memory says and some buffers, however many entries
// there are.
func TestMemoryIsBounded(t *testing.T) {
	const files, layers = 60000, 3
	var r Report
	most := peak(func() {
		var src []Source
		for l := range layers {
			src = append(src, many(l, files))
		}
		var err error
		r, err = Run(t.Context(), src, Options{Dir: t.TempDir(), Limits: Limits{Memory: 1 << 20}})
		must(t, err)
	})
	if r.Layers[0].Entries != files || r.Bytes != files*layers*8 || r.Wasted != files*8 {
		t.Errorf("bytes %d, wasted %d, %+v", r.Bytes, r.Wasted, r.Layers[0])
	}
	// The records alone are over 15 MB.
	if most > 10<<20 {
		t.Errorf("%d bytes were live", most)
	}
}

// BenchmarkEntries tells the peak of the live heap by entry, and the time: go
// test -bench Entries -benchtime 1x ./internal/image/analyze
func BenchmarkEntries(b *testing.B) {
	for _, files := range []int{250_000, 1_000_000, 4_000_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			for b.Loop() {
				most := peak(func() {
					_, err := Run(b.Context(), []Source{many(0, files/2), many(1, files/2)}, Options{Dir: b.TempDir()})
					must(b, err)
				})
				b.ReportMetric(float64(most)/(1<<20), "peak-MiB")
				b.ReportMetric(float64(most)/float64(files), "peak-B/entry")
				b.ReportMetric(0, "B/op")
			}
		})
	}
}
