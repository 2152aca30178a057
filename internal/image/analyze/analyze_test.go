package analyze

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// item is an entry of a layer: "name" a file with the content, "name/" a
// directory, "name@" a symbolic link, "name=target" a hard link.
type item struct{ name, content string }

func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(i.content))}
		name, target, linked := strings.Cut(i.name, "=")
		switch {
		case strings.HasSuffix(i.name, "/"):
			h.Typeflag, h.Size = tar.TypeDir, 0
		case strings.HasSuffix(i.name, "@"):
			h.Typeflag, h.Size, h.Name, h.Linkname = tar.TypeSymlink, 0, strings.TrimSuffix(i.name, "@"), "x"
		case linked:
			h.Typeflag, h.Size, h.Name, h.Linkname = tar.TypeLink, 0, name, target
		}
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, i.content)
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sources(layers ...[]byte) []Source {
	var out []Source
	for _, l := range layers {
		out = append(out, Source{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }})
	}
	return out
}

func analysed(t testing.TB, o Options, layers ...[]byte) Report {
	t.Helper()
	o.Dir = t.TempDir()
	r, err := Run(t.Context(), sources(layers...), o)
	must(t, err)
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return r
}

func TestWhatLayersDoToEachOther(t *testing.T) {
	type layers = [][]item
	for _, c := range []struct {
		name   string
		layers layers
		want   string // one word for each layer: +added ~changed -removed, files:bytes; w wasted, d duplicated, r rewritten
	}{
		{"added", layers{{{"a", "12345"}, {"d/", ""}, {"d/b", "x"}}}, "+2:6"},
		{"changed", layers{{{"a", "12345"}}, {{"a", "123"}}}, "+1:5,w5 ~1:3"},
		{"changed twice", layers{{{"a", "12345"}}, {{"a", "123"}}, {{"a", "1"}}}, "+1:5,w5 ~1:3,w3 ~1:1"},
		{"only the owner changed", layers{{{"a", "12345"}}, {{"a", "12345"}}}, "+1:5,w5 ~1:5,r5"},
		{"removed", layers{{{"d/", ""}, {"d/a", "12345"}}, {{"d/.wh.a", ""}}}, "+1:5,w5 -1:5"},
		{"removed and brought back", layers{{{"a", "12345"}}, {{".wh.a", ""}}, {{"a", "12"}}}, "+1:5,w5 -1:5 +1:2"},
		{"removed a directory", layers{{{"d/", ""}, {"d/a", "12"}, {"d/e/f", "345"}, {"d.x", "6"}}, {{".wh.d", ""}}}, "+3:6,w5 -2:5"},
		{"removed what was changed", layers{{{"d/a", "12"}}, {{"d/a", "3"}}, {{".wh.d", ""}}}, "+1:2,w2 ~1:1,w1 -1:1"},
		{"opaque", layers{{{"d/a", "12"}, {"d/b", "3"}}, {{"d/", ""}, {"d/.wh..wh..opq", ""}, {"d/b", "45"}, {"d/c", "6"}}}, "+2:3,w3 +1:1,~1:2,-1:2"},
		{"opaque, mark last", layers{{{"d/a", "12"}}, {{"d/c", "6"}, {"d/.wh..wh..opq", ""}}}, "+1:2,w2 +1:1,-1:2"},
		{"opaque root", layers{{{"a", "12"}}, {{".wh..wh..opq", ""}, {"b", "3"}}}, "+1:2,w2 +1:1,-1:2"},
		{"opaque is for lower layers only", layers{{{"d/", ""}}, {{"d/", ""}, {"d/.wh..wh..opq", ""}}, {{"d/a", "1"}}}, "  +1:1"},
		{"whiteout and new file in one layer", layers{{{"a", "12"}}, {{".wh.a", ""}, {"a", "345"}}}, "+1:2,w2 ~1:3"},
		{"whiteout and new directory in one layer", layers{{{"d/a", "12"}, {"d/b", "3"}}, {{".wh.d", ""}, {"d/", ""}, {"d/a", "45"}}}, "+2:3,w3 ~1:2,-1:1"},
		{"file for a directory", layers{{{"d/", ""}, {"d/a", "12"}}, {{"d", "345"}}}, "+1:2,w2 +1:3,-1:2"},
		{"directory for a file", layers{{{"d", "345"}}, {{"d/", ""}, {"d/a", "12"}}}, "+1:3,w3 +1:2,-1:3"},
		{"link for a file", layers{{{"a", "345"}}, {{"a@", ""}}}, "+1:3,w3 ~1:0"},
		{"a hard link has no bytes of its own", layers{{{"a", "345"}, {"b=a", ""}}, {{".wh.b", ""}}}, "+2:3 -1:0"},
		{"whiteout of nothing", layers{{{"a", "1"}}, {{".wh.b", ""}, {"c/.wh.d", ""}}}, "+1:1 "},
		{"of two entries the last counts", layers{{{"a", "12345"}, {"a", "1"}}}, "+1:1"},
		{"storage driver's own", layers{{{".wh..wh.plnk/", ""}, {".wh..wh.aufs", "x"}, {"a", "1"}}}, "+1:1"},
		{"names are cleaned", layers{{{"./d/a", "12"}}, {{"/d/../d/a", "3"}}, {{"../../d//.wh.a", ""}}}, "+1:2,w2 ~1:1,w1 -1:1"},
		{"a name that begins with another", layers{{{"d/a", "1"}, {"d-x/a", "2"}, {"d/", ""}, {"dd", "3"}}, {{".wh.d", ""}}}, "+3:3,w1,d0 -1:1"},
		{"duplicates", layers{{{"a", "1234"}, {"b", "1234"}}, {{"c", "1234"}, {"d", "1234"}}, {{"e", "1234"}}}, "+2:8 +2:8,d4 +1:4,d4"},
		{"what is gone is no duplicate", layers{{{"a", "1234"}}, {{".wh.a", ""}, {"c", "1234"}}}, "+1:4,w4 +1:4,-1:4"},
		{"empty files are no duplicates", layers{{{"a", ""}}, {{"b", ""}}}, "+1:0 +1:0"},
		{"nothing", layers{{}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tars [][]byte
			for _, l := range c.layers {
				tars = append(tars, archive(t, l...))
			}
			r := analysed(t, Options{}, tars...)
			var got []string
			for _, l := range r.Layers {
				got = append(got, word(l))
			}
			want := strings.ReplaceAll(c.want, ",d0", "")
			if g := strings.Join(got, " "); g != want {
				t.Errorf("got %q, want %q", g, want)
			}
		})
	}
}

func word(l Layer) string {
	var out []string
	for _, c := range []struct {
		sign string
		n    Count
	}{{"+", l.Added}, {"~", l.Changed}, {"-", l.Removed}} {
		if c.n.Files > 0 {
			out = append(out, fmt.Sprintf("%s%d:%d", c.sign, c.n.Files, c.n.Bytes))
		}
	}
	for _, c := range []struct {
		sign string
		n    int64
	}{{"w", l.Wasted}, {"d", l.Duplicated}, {"r", l.Rewritten}} {
		if c.n > 0 {
			out = append(out, fmt.Sprintf("%s%d", c.sign, c.n))
		}
	}
	return strings.Join(out, ",")
}

func TestScoreAndLists(t *testing.T) {
	r := analysed(t, Options{Top: 2},
		archive(t, item{"big", strings.Repeat("x", 60)}, item{"mid", strings.Repeat("y", 20)}, item{"small", "z"}, item{"lib/one", strings.Repeat("l", 19)}),
		archive(t, item{".wh.big", ""}, item{"mid", strings.Repeat("Y", 20)}, item{".wh.small", ""}),
		archive(t, item{"mid", strings.Repeat("Y", 20)}, item{"opt/one", strings.Repeat("l", 19)}, item{"opt/two", strings.Repeat("l", 19)}),
	)
	// 100 + 20 + 58 bytes; 60 + 1 deleted, 20 + 20 overwritten, 19 twice.
	if r.Bytes != 178 || r.Wasted != 101 || r.Duplicated != 19 {
		t.Errorf("bytes %d, wasted %d, duplicated %d", r.Bytes, r.Wasted, r.Duplicated)
	}
	if want := 100 * (1 - 120.0/178); r.Efficiency != want {
		t.Errorf("efficiency %v, want %v", r.Efficiency, want)
	}
	if want := []Waste{{"big", 60, 1, 2, Deleted}, {"mid", 40, 2, 3, Rewritten}}; !reflect.DeepEqual(r.TopWasted, want) {
		t.Errorf("wasted %+v", r.TopWasted)
	}
	if len(r.TopCopies) != 1 {
		t.Fatalf("copies %+v", r.TopCopies)
	}
	c := r.TopCopies[0]
	if c.Size != 19 || c.Bytes != 19 || !slices.Equal(c.Layers, []int{1, 3}) || !slices.Equal(c.Paths, []string{"lib/one", "opt/one"}) || len(c.Digest) != 32 {
		t.Errorf("copies %+v", c)
	}
	if want := []Pair{{1, 2, Deleted, 2, 61}, {1, 2, Overwritten, 1, 20}, {1, 3, Duplicated, 1, 19}, {2, 3, Rewritten, 1, 20}}; !reflect.DeepEqual(r.Pairs, want) {
		t.Errorf("pairs %+v", r.Pairs)
	}
	if e := analysed(t, Options{}).Efficiency; e != 100 {
		t.Errorf("efficiency of no layers: %v", e)
	}
}

// naive is what an image shows after each layer, worked out with maps.
type naive map[string]naiveFile

type naiveFile struct {
	layer   int
	dir     bool
	content string
}

func (n naive) remove(p string, except int) {
	for have, f := range n {
		if (have == p || strings.HasPrefix(have, p+"/")) && f.layer != except {
			delete(n, have)
		}
	}
}

// Whatever random layers do, the fold agrees with a file system made of maps,
// with much memory as with hardly any.
func TestAgreesWithAFileSystem(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var tars [][]byte
		fs := naive{}
		var total int64
		for layer := range 1 + rng.IntN(6) {
			var items []item
			used := map[string]bool{}
			for range rng.IntN(12) {
				p := string("ab"[rng.IntN(2)])
				for range rng.IntN(3) {
					p += "/" + string("ab"[rng.IntN(2)])
				}
				// One word for a path in a layer, and none below what the layer says is no directory.
				bad := used[p]
				for have := range used {
					bad = bad || strings.HasPrefix(have, p+"/") || strings.HasPrefix(p, have+"/") && used[have]
				}
				if bad {
					continue
				}
				switch rng.IntN(5) {
				case 0:
					items = append(items, item{path.Join(path.Dir(p), ".wh."+path.Base(p)), ""})
					used[p] = true
					fs.remove(p, layer)
				case 1:
					items = append(items, item{p + "/", ""}, item{p + "/.wh..wh..opq", ""})
					fs.remove(p, layer)
					fs.parents(p, layer)
					fs[p] = naiveFile{layer: layer, dir: true}
					used[p] = true
				case 2:
					items = append(items, item{p + "/", ""})
					fs.parents(p, layer)
					if f, ok := fs[p]; !ok || !f.dir {
						fs[p] = naiveFile{layer: layer, dir: true}
					}
					used[p] = true
				default:
					content := strings.Repeat("x", 1+rng.IntN(50))
					items = append(items, item{p, content})
					total += int64(len(content))
					fs.remove(p, -1)
					fs.parents(p, layer)
					fs[p] = naiveFile{layer: layer, content: content}
					used[p] = true
				}
			}
			// Directories that layers go through are entries of theirs, as in real ones.
			var dirs []item
			for _, i := range items {
				for d := path.Dir(i.name); d != "."; d = path.Dir(d) {
					if !used[d] {
						used[d] = true
						dirs = append(dirs, item{d + "/", ""})
					}
				}
			}
			slices.SortFunc(dirs, func(a, b item) int { return len(a.name) - len(b.name) })
			for _, d := range dirs {
				if p := strings.TrimSuffix(d.name, "/"); !fs[p].dir {
					fs.parents(p+"/x", layer)
				}
			}
			tars = append(tars, archive(t, append(dirs, items...)...))
		}
		var shown int64
		for _, f := range fs {
			shown += int64(len(f.content))
		}
		r := analysed(t, Options{}, tars...)
		if r.Bytes != total || r.Bytes-r.Wasted != shown {
			t.Fatalf("seed %d: bytes %d (want %d), shown %d (want %d)", seed, r.Bytes, total, r.Bytes-r.Wasted, shown)
		}
		if small := analysed(t, Options{Limits: Limits{Memory: 200}}, tars...); !reflect.DeepEqual(small, r) {
			t.Fatalf("seed %d: with little memory %+v\nwith much %+v", seed, small, r)
		}
	}
}

// parents makes the directories above p; what was no directory goes.
func (n naive) parents(p string, layer int) {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if f, ok := n[d]; !ok || !f.dir {
			n[d] = naiveFile{layer: layer, dir: true}
		}
	}
}

// More runs than are merged at a time.
func TestManyRuns(t *testing.T) {
	s := newSorter(t.TempDir(), 64, &spillBudget{left: 1 << 30})
	const n = 5000
	for i := range n {
		must(t, s.add(fmt.Appendf(nil, "%04d", i*7919%1000), fmt.Appendf(nil, "%06d", i)))
	}
	if len(s.runs) <= 2*maxRuns {
		t.Fatalf("only %d runs", len(s.runs))
	}
	var last string
	count := 0
	must(t, s.merge(t.Context(), func(k, v []byte) error {
		if now := string(k) + string(v); now <= last {
			t.Fatalf("%s after %s", now, last)
		} else {
			last = now
		}
		count++
		return nil
	}))
	if count != n {
		t.Errorf("%d records of %d", count, n)
	}
	must(t, s.close())
}

// endless is a layer that never ends: one entry after another.
type endless struct{ rest []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "a/very/long/name/of/a/file", Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
			return 0, err
		}
		e.rest = b.Bytes()
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// zeros is what a bomb unpacks to: a file of any size.
func zeros(t *testing.T, n int64) io.Reader {
	var b bytes.Buffer
	must(t, tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Mode: 0o644, Size: n}))
	return io.MultiReader(&b, zeroReader{})
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHostileLayers(t *testing.T) {
	long := archive(t, item{strings.Repeat("n/", 3000) + "x", ""})
	good := archive(t, item{"a", strings.Repeat("x", 2000)})
	// archive/tar does not write what it does not read: a PAX header of 2 MiB.
	header := bytes.NewBuffer(archive(t, item{"bomb", strings.Repeat("x", 2<<20)}))
	header.Bytes()[156] = tar.TypeXHeader
	copy(header.Bytes()[148:], fmt.Sprintf("%06o\x00 ", checksum(header.Bytes()[:512])))
	for _, c := range []struct {
		name   string
		layer  io.Reader
		limits Limits
		want   string
		class  error
	}{
		{"endless entries", &endless{}, Limits{Entries: 10000}, "layer 1: the image has more than 10000 entries, the most that are analysed", errdefs.ErrInvalidArgument},
		{"endless entries, by bytes", &endless{}, Limits{Bytes: 1 << 20}, "layer 1: the image unpacks to more than 1048576 bytes", errdefs.ErrInvalidArgument},
		{"endless entries, by disk", &endless{}, Limits{Spill: 1 << 20, Memory: 1 << 16}, "would take more disk than an analysis may", errdefs.ErrResourceExhausted},
		{"a file of exabytes", zeros(t, 1<<62), Limits{Bytes: 1 << 20}, "layer 1: the image unpacks to more than 1048576 bytes", errdefs.ErrInvalidArgument},
		{"a long name", bytes.NewReader(long), Limits{}, "layer 1: the name of an entry has 6001 bytes, at most 4096 can be", errdefs.ErrInvalidArgument},
		{"a header bomb", header, Limits{}, "it is not a tar archive", errdefs.ErrInvalidArgument},
		{"noise", strings.NewReader(strings.Repeat("noise", 1000)), Limits{}, "layer 1: it is not a tar archive", errdefs.ErrInvalidArgument},
		{"cut off", bytes.NewReader(good[:1000]), Limits{}, "layer 1: it is not a tar archive: unexpected EOF", errdefs.ErrInvalidArgument},
		{"an unreadable one", io.MultiReader(bytes.NewReader(good[:1000]), failing{}), Limits{}, "layer 1: the disk is gone", errDisk},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := Source{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(c.layer), nil }}
			_, err := Run(t.Context(), []Source{src}, Options{Dir: t.TempDir(), Limits: c.limits})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.class) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := Run(t.Context(), sources(good, good, good), Options{Dir: t.TempDir(), Limits: Limits{Layers: 2}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many layers: %v", err)
	}
}

var errDisk = errors.New("the disk is gone")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errDisk }

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := Source{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&endless{}), nil }}
	_, err := Run(ctx, []Source{src}, Options{Dir: t.TempDir(), Progress: func(int, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// checksum is a tar header's.
func checksum(h []byte) int {
	sum := 8 * int(' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	return sum
}

// A sparse file whose holes are exabytes is as big as the archive says, and
// read in no time.
func TestSparseFile(t *testing.T) {
	// A sparse entry of the old GNU format, which archive/tar reads and does not write.
	var b bytes.Buffer
	h := make([]byte, 512)
	copy(h, "hole")
	copy(h[100:], "0000644\x00")
	copy(h[124:], "00000001000\x00") // 512 bytes in the archive
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "00000000000\x0000000001000\x00")     // the first piece of data
	copy(h[483:], []byte{0x80, 0, 0, 0, 0x40, 0, 0, 0}) // real size, binary: 2^62
	h[483], h[484], h[485], h[486], h[487] = 0x80, 0, 0, 0, 0x40
	copy(h[148:], fmt.Sprintf("%06o\x00 ", checksum(h)))
	b.Write(h)
	b.Write(bytes.Repeat([]byte("d"), 512))
	b.Write(archive(t, item{"after", "1"}))
	r := analysed(t, Options{}, b.Bytes(), archive(t, item{".wh.hole", ""}))
	if got := r.Bytes - 1; got < 512 || got > 1024 {
		t.Errorf("the sparse file counts %d bytes", got)
	}
	if r.Wasted != r.Bytes-1 || r.Layers[0].Added.Files != 2 {
		t.Errorf("%+v", r)
	}
}
