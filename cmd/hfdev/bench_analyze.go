package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"holdfast.dev/holdfast/api"
)

const (
	targetAnalyze = 1.5
	analyzeSize   = 1 << 30
)

// analyze measures `image analyze` of a 1 GB image against what it takes tar to
// list the same layers, as they are stored.
func (b *bench) analyze() {
	b.t.Helper()
	if err := b.importBig("bench/analyze"); err != nil {
		b.t.Fatalf("make the image to analyse: %v", err)
	}
	var found api.ImageAnalysis
	if err := json.Unmarshal([]byte(b.ours.Holdfast("image", "analyze", "--json", "bench/analyze")), &found); err != nil {
		b.t.Fatalf("read the analysis: %v", err)
	}
	var layers []string
	for _, l := range found.Layers {
		layers = append(layers, b.blob(l.Digest))
	}
	s := b.pairs(b.count(7, 3),
		func() float64 {
			return timed(func() { b.ours.Holdfast("image", "analyze", "bench/analyze") })
		},
		func() float64 {
			return timed(func() {
				for _, l := range layers {
					if out, err := exec.Command("tar", "-tzf", l).Output(); err != nil || len(out) == 0 {
						b.t.Fatalf("tar -tzf %s: %v", l, err)
					}
				}
			})
		})
	b.ours.Docker("rmi", "bench/analyze")
	b.rows = append(b.rows, row{
		what: fmt.Sprintf("`holdfast image analyze`, 1 GB in %d files", found.Layers[0].Entries), unit: milliseconds,
		ours: s[0], peer: s[1], name: "`tar t`", target: targetAnalyze,
	})
}

// blob finds a layer's file in our store.
func (b *bench) blob(digest string) string {
	b.t.Helper()
	var at string
	err := filepath.WalkDir(b.ours.Root(), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // others work there
		}
		if err == nil && !d.IsDir() && d.Name() == strings.TrimPrefix(digest, "sha256:") {
			at = p
			return filepath.SkipAll
		}
		return err
	})
	if err != nil || at == "" {
		b.t.Fatalf("layer %s is not found: %v", digest, err)
	}
	return at
}

// importBig imports an archive of 1 GiB: files of many sizes, half of it
// text-like and half noise.
func (b *bench) importBig(ref string) (err error) {
	file := filepath.Join(b.ours.Dir(), "analyze.tar")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(file)) }()
	out := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(out)
	rnd := rand.New(rand.NewPCG(1, 3)) //nolint:gosec // noise, not a secret
	body := make([]byte, 4<<20)
	for written, n := 0, 0; written < analyzeSize; n++ {
		size := 512 << rnd.IntN(13) // 512 bytes to 2 MiB
		for i := 0; i < size; i++ {
			body[i] = byte(rnd.Uint32())
			if n%2 == 0 {
				body[i] = "etaoin shrdlu\n "[body[i]&15%15]
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/dir%02d/file%06d", n%50, n), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		if _, err := w.Write(body[:size]); err != nil {
			return err
		}
		written += size
	}
	if err := errors.Join(w.Close(), out.Flush()); err != nil {
		return err
	}
	b.ours.Docker("import", file, ref)
	return nil
}
