package imagestore_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
)

// TestHostileLayers holds that a layer cannot reach out of its root, and that
// a refused one leaves nothing.
func TestHostileLayers(t *testing.T) {
	needsRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(outside, 0o755))
	victim := filepath.Join(outside, "victim")
	up := strings.Repeat("../", 30)
	link := func(name, to string) file {
		return file{name: name, hdr: tar.Header{Typeflag: tar.TypeSymlink, Linkname: to}}
	}
	hard := func(name, to string) file {
		return file{name: name, hdr: tar.Header{Typeflag: tar.TypeLink, Linkname: to}}
	}
	whole := tarOf(t, dir("a"), file{name: "a/b", body: strings.Repeat("x", 5000)})
	for _, tc := range []struct {
		name    string
		layer   []byte
		refused bool
	}{
		{"path with dots", tarOf(t, file{name: up + victim[1:], body: "x"}), false},
		{"absolute path", tarOf(t, file{name: victim, body: "x"}), false},
		{"through a symlink", tarOf(t, link("l", outside), file{name: "l/victim", body: "x"}), false},
		{"through a relative symlink", tarOf(t, link("l", up+outside[1:]), file{name: "l/victim", body: "x"}), false},
		{"hard link out", tarOf(t, hard("h", up+"etc/hostname")), true},
		{"hard link through a symlink", tarOf(t, link("l", "/etc"), hard("h", "l/hostname")), true},
		{"whiteout of the root's parent", tarOf(t, file{name: "../.wh.victim"}), false},
		{"whiteout of dots", tarOf(t, file{name: ".wh..."}), true},
		{"truncated", whole[:3000], true},
		{"header cut", whole[:700], true},
		{"no tar", []byte(strings.Repeat("nonsense ", 500)), true},
		{"gzip cut", gz(t, whole)[:30], true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.Import(context.Background(), bytes.NewReader(tc.layer), image.ImportOptions{Ref: named(t, "x")})
			if tc.refused != (err != nil) {
				t.Fatalf("import = %v, want refused %v", err, tc.refused)
			}
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			if es, err := os.ReadDir(outside); err != nil || len(es) > 0 {
				t.Errorf("something came out: %v, %v", es, err)
			}
			if err == nil {
				_, err := f.Remove(context.Background(), "x", image.RemoveOptions{})
				must(t, err)
			}
			f.empty()
		})
	}
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

// TestDeviceNodes: a layer may hold device nodes, as layers of distributions
// do; they stay nodes in the layer. What a container may do with them is the
// device cgroup's matter.
func TestDeviceNodes(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	layer := tarOf(t, dir("dev"), file{name: "dev/null", hdr: tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}})
	_, err := f.Import(ctx, bytes.NewReader(layer), image.ImportOptions{Ref: named(t, "x")})
	must(t, err)
	got, err := f.Inspect(ctx, "x", image.InspectOptions{})
	must(t, err)
	st, err := os.Lstat(filepath.Join(got.GraphDriver.Data["UpperDir"], "dev/null"))
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("dev/null: %v, %v", st, err)
	}
}

func TestImportCompressions(t *testing.T) {
	layer := tarOf(t, dir("a"), file{name: "a/b", body: strings.Repeat("x", 5000)})
	var z bytes.Buffer
	zw, err := zstd.NewWriter(&z)
	must(t, err)
	_, err = zw.Write(layer)
	must(t, err)
	must(t, zw.Close())
	var x bytes.Buffer
	xw, err := xz.NewWriter(&x)
	must(t, err)
	_, err = xw.Write(layer)
	must(t, err)
	must(t, xw.Close())
	cmd := exec.Command("bzip2", "-c")
	cmd.Stdin = bytes.NewReader(layer)
	bz, err := cmd.Output()
	if err != nil {
		t.Logf("no bzip2 here: %v", err)
		bz = nil
	}
	for name, b := range map[string][]byte{"plain": layer, "gzip": gz(t, layer), "zstd": z.Bytes(), "xz": x.Bytes(), "bzip2": bz} {
		if b == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.Import(context.Background(), bytes.NewReader(b), image.ImportOptions{Ref: named(t, "x")})
			must(t, err)
			got, err := f.Inspect(context.Background(), "x", image.InspectOptions{})
			must(t, err)
			if got.RootFS.Layers[0] != digestOf(layer) {
				t.Errorf("diff ID %v", got.RootFS.Layers)
			}
			// As a whole image in an archive that is compressed as a whole, too.
			var out bytes.Buffer
			must(t, f.Save(context.Background(), []string{"x"}, nil, &out))
			g := newFixture(t)
			must(t, g.Load(context.Background(), bytes.NewReader(gz(t, out.Bytes())), nil, &out, true))
			if r, err := g.Runnable(context.Background(), got.ID, nil); err != nil || r.ID != got.ID {
				t.Errorf("loaded again: %+v, %v", r, err)
			}
		})
	}
}

func TestHostileArchives(t *testing.T) {
	needsRoot(t)
	layer := tarOf(t, dir("a"), file{name: "a/b", body: "x"})
	hex := strings.TrimPrefix(digestOf(layer), "sha256:")
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + hex + `"]}}`
	manifest := func(layers ...string) string {
		b, err := json.Marshal([]map[string]any{{"Config": "c.json", "RepoTags": []string{"x:1"}, "Layers": layers}})
		must(t, err)
		return string(b)
	}
	good := []file{{name: "l/layer.tar", body: string(layer)}, {name: "c.json", body: config}}
	with := func(fs ...file) []byte { return tarOf(t, append(append([]file{}, good...), fs...)...) }
	index := func(d string, size int) string {
		return `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + d + `","size":` +
			jsonInt(size) + `}]}`
	}
	layout := file{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}
	cut := with(file{name: "manifest.json", body: manifest("l/layer.tar")})
	deep := strings.Repeat(`{"a":`, 100000)
	for name, b := range map[string][]byte{
		"empty":                   {},
		"nonsense":                []byte(strings.Repeat("nonsense ", 1000)),
		"no manifest":             with(),
		"manifest twice":          with(file{name: "manifest.json", body: manifest("l/layer.tar")}, file{name: "./manifest.json", body: manifest("l/layer.tar")}),
		"manifest is no json":     with(file{name: "manifest.json", body: "{"}),
		"manifest too deep":       with(file{name: "manifest.json", body: deep}),
		"manifest of nothing":     with(file{name: "manifest.json", body: "[]"}),
		"manifest huge":           with(file{name: "manifest.json", body: "[" + strings.Repeat(" ", 9<<20) + "]"}),
		"layer missing":           with(file{name: "manifest.json", body: manifest("m/layer.tar")}),
		"layer outside":           with(file{name: "manifest.json", body: manifest("../../../../etc/hostname")}),
		"layers too many":         with(file{name: "manifest.json", body: manifest("l/layer.tar", "l/layer.tar")}),
		"layer is no tar":         with(file{name: "n", body: strings.Repeat("n", 2000)}, file{name: "manifest.json", body: manifest("n")}),
		"layer is another":        with(file{name: "o", body: string(tarOf(t, dir("o")))}, file{name: "manifest.json", body: manifest("o")}),
		"link loop":               with(file{name: "x", hdr: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "x"}}, file{name: "manifest.json", body: manifest("x")}),
		"bad tag":                 with(file{name: "manifest.json", body: strings.Replace(manifest("l/layer.tar"), "x:1", "X Y", 1)}),
		"archive cut in a layer":  cut[:1200],
		"archive cut in a header": cut[:len(cut)-4096],
		"config huge":             tarOf(t, good[0], file{name: "c.json", body: "{" + strings.Repeat(" ", 9<<20) + "}"}, file{name: "manifest.json", body: manifest("l/layer.tar")}),
		"config is no json":       tarOf(t, good[0], file{name: "c.json", body: "}"}, file{name: "manifest.json", body: manifest("l/layer.tar")}),
		"layout without index":    with(layout),
		"layout of the future":    with(file{name: "oci-layout", body: `{"imageLayoutVersion":"9"}`}, file{name: "index.json", body: "{}"}),
		"index of nothing":        with(layout, file{name: "index.json", body: `{"schemaVersion":2}`}),
		"index of what is absent": with(layout, file{name: "index.json", body: index("sha256:"+strings.Repeat("0", 64), 10)}),
		"index of a bad digest":   with(layout, file{name: "index.json", body: index("sha256:../../x", 10)}),
		"index of a layer":        with(layout, file{name: "index.json", body: index("sha256:"+hex, len(layer))}),
		"index with a wrong size": with(layout, file{name: "index.json", body: index("sha256:"+hex, len(layer)+1)}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			var out bytes.Buffer
			err := f.Load(context.Background(), bytes.NewReader(b), nil, &out, true)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("load = %v, want invalid argument", err)
			}
			if out.Len() > 0 {
				t.Errorf("output %s", out.String())
			}
			f.empty()
		})
	}
}

func jsonInt(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// asExtended makes the archive's first member a PAX header.
func asExtended(archive []byte) {
	block := archive[:512]
	block[156] = tar.TypeXHeader
	copy(block[148:156], "        ")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// TestHugeHeader: a PAX header may be megabytes of nothing.
func TestHugeHeader(t *testing.T) {
	f := newFixture(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// A record of 8 MiB: Go's own writer no longer makes one.
	record := strings.Repeat("x", 8<<20)
	must(t, w.WriteHeader(&tar.Header{Name: "PaxHeaders.0/x", Typeflag: tar.TypeReg, Size: int64(len(record) + 13)}))
	_, err := io.WriteString(w, "8388621 A.b="+record+"\n")
	must(t, err)
	must(t, w.WriteHeader(&tar.Header{Name: "x"}))
	must(t, w.Close())
	asExtended(b.Bytes())
	_, err = f.Import(context.Background(), &b, image.ImportOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("import = %v", err)
	}
	f.empty()
}

// TestDiskFull: a full disk is an error that says so, costs nothing that was
// there, and is over when there is space.
func TestDiskFull(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	must(t, syscall.Mount("tmpfs", root, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { must(t, syscall.Unmount(root, 0)) })
	f := newFixtureAt(t, root, imagestore.HostOptions{})
	ctx := context.Background()
	kept, err := f.Import(ctx, bytes.NewReader(tarOf(t, dir("kept"))), image.ImportOptions{Ref: named(t, "kept")})
	must(t, err)
	before, layers := f.blobs(), len(f.layers())
	noise := make([]byte, 30<<20) // does not compress
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise[i] = byte(x)
	}
	big := tarOf(t, dir("a"), file{name: "a/big", body: string(noise)})
	same := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "no space left on device") || errdefs.IsInvalidArgument(err) {
			t.Errorf("%s on a full disk = %v", what, err)
		}
		if _, err := f.meta.GarbageCollect(f.ctx()); err != nil {
			t.Errorf("collect: %v", err)
		}
		if f.blobs() != before || len(f.layers()) != layers || len(f.ingests()) > 0 {
			t.Errorf("%s left something: %d blobs, layers %v, ingests %v", what, f.blobs(), f.layers(), f.ingests())
		}
		if r, err := f.Runnable(ctx, "kept", nil); err != nil || r.ID != kept {
			t.Errorf("%s cost the other image: %+v, %v", what, r, err)
		}
	}
	_, err = f.Import(ctx, bytes.NewReader(big), image.ImportOptions{Ref: named(t, "big")})
	same("import", err)
	var out bytes.Buffer
	same("load", f.Load(ctx, bytes.NewReader(dockerArchive(t, "big:1", nil, big)), nil, &out, true))
	small := tarOf(t, dir("a"), file{name: "a/big", body: string(noise[:4<<20])})
	_, err = f.Import(ctx, bytes.NewReader(small), image.ImportOptions{Ref: named(t, "small")})
	must(t, err)
	_, err = f.Remove(ctx, "small", image.RemoveOptions{})
	must(t, err)
	_, err = f.Remove(ctx, "kept", image.RemoveOptions{})
	must(t, err)
	f.empty()
}
