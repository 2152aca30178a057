package analyze

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
)

// fold walks the entries of all layers, sorted by path and under a path by
// layer, and decides for each file whether the image shows it.
type fold struct {
	layers []Layer
	pairs  map[pairKey]*Count
	kinds  map[kindKey]int64
	top    *top[Waste]
	copies *top[Copies]
	out    *sorter // files that are shown, by content

	stack []frame // directories above the path, outermost first
	at    spot
	begun bool
	key   []byte // scratch
}

type pairKey struct {
	from, by int
	how      How
}

type kindKey struct {
	layer int
	name  string
}

// frame is a path and the layers that take away what lower ones have below it.
type frame struct {
	key  []byte
	cuts layerSet // its own and those of the directories above
}

// spot is the path being looked at.
type spot struct {
	key   []byte
	above layerSet // cuts of the directories above
	cuts  layerSet // its own
	shown entry    // what is visible so far; layer -1: nothing
	waste Waste

	// What the current layer says of it; the last entry of a path counts.
	layer           int
	entry           entry
	has, gone, bare bool // an entry, a whiteout, an opaque mark
}

func newFold(layers []Source, n int, out *sorter) *fold {
	f := &fold{
		pairs: map[pairKey]*Count{}, kinds: map[kindKey]int64{}, out: out,
		top:    newTop(n, func(w Waste) int64 { return w.Bytes }),
		copies: newTop(n, func(c Copies) int64 { return c.Bytes }),
	}
	for i, l := range layers {
		f.layers = append(f.layers, Layer{Index: i + 1, CreatedBy: l.CreatedBy})
	}
	return f
}

// path takes the next record.
func (f *fold) path(key, value []byte) error {
	e := entryOf(value)
	if !f.begun || !slices.Equal(key, f.at.key) {
		if err := f.finish(); err != nil {
			return err
		}
		f.enter(key)
	}
	if e.layer != f.at.layer {
		f.settle()
		f.at.layer = e.layer
	}
	switch e.kind {
	case isWhiteout:
		f.at.gone = true
	case isOpaque:
		f.at.bare = true
	default:
		f.at.entry, f.at.has = e, true
	}
	return nil
}

// enter begins a path.
func (f *fold) enter(key []byte) {
	for len(f.stack) > 0 && !below(f.stack[len(f.stack)-1].key, key) {
		f.stack = f.stack[:len(f.stack)-1]
	}
	s := spot{key: append(f.at.key[:0], key...), shown: entry{layer: -1}, layer: -1}
	if len(f.stack) > 0 {
		s.above = f.stack[len(f.stack)-1].cuts
	}
	f.at, f.begun = s, true
}

// below says whether the path lies below the directory. The root has the empty key.
func below(dir, p []byte) bool {
	if len(dir) == 0 {
		return len(p) > 0
	}
	return len(p) > len(dir) && p[len(dir)] == 0 && slices.Equal(p[:len(dir)], dir)
}

// settle decides what the current layer's word means for the path.
func (f *fold) settle() {
	s := &f.at
	if s.layer < 0 {
		return
	}
	defer func() { s.has, s.gone, s.bare = false, false, false }()
	if cut := s.above.after(s.shown.layer); s.shown.layer >= 0 && cut >= 0 && cut < s.layer {
		f.lose(cut, Deleted)
	}
	// Taken away above in this very layer, it is what the layer brings that counts.
	hidden := s.gone || s.shown.layer >= 0 && s.above.has(s.layer)
	merged := s.has && s.entry.kind == isDir && s.shown.kind == isDir
	switch {
	case s.shown.layer < 0 && s.has && s.entry.kind != isDir:
		l := &f.layers[s.layer]
		l.Added.Files++
		l.Added.Bytes += s.entry.size
	case s.shown.layer >= 0 && s.has && !merged:
		f.replace(s.entry)
	case s.shown.layer >= 0 && !s.has && hidden:
		f.lose(s.layer, Deleted)
	}
	if s.has {
		s.shown = s.entry
		f.layers[s.layer].Bytes += s.entry.size
	}
	if s.gone || s.bare || s.has && s.entry.kind != isDir {
		s.cuts = s.cuts.with(s.layer)
	}
}

// replace counts that e takes the place of what is shown.
func (f *fold) replace(e entry) {
	old, l := f.at.shown, &f.layers[e.layer]
	switch {
	case e.kind == isDir:
		f.lose(e.layer, Deleted)
		return
	case old.kind == isDir:
		l.Added.Files++
		l.Added.Bytes += e.size
		return
	}
	l.Changed.Files++
	l.Changed.Bytes += e.size
	how := Overwritten
	if old.kind == isFile && e.kind == isFile && old.known && e.known && old.size == e.size && old.hash == e.hash {
		how = Rewritten
		l.Rewritten += e.size
	}
	f.lose(e.layer, how)
}

// lose counts that a layer hides what is shown.
func (f *fold) lose(by int, how How) {
	s := &f.at
	old := s.shown
	s.shown = entry{layer: -1}
	if old.kind == isDir {
		return
	}
	if how == Deleted {
		f.layers[by].Removed.Files++
		f.layers[by].Removed.Bytes += old.size
	}
	f.pair(old.layer, by, how, old.size)
	f.layers[old.layer].Wasted += old.size
	s.waste.Bytes += old.size
	s.waste.Times++
	s.waste.By, s.waste.How = by+1, how
}

func (f *fold) pair(from, by int, how How, size int64) {
	k := pairKey{from, by, how}
	c := f.pairs[k]
	if c == nil {
		c = &Count{}
		f.pairs[k] = c
	}
	c.Files++
	c.Bytes += size
}

// finish ends the path: whatever is still shown, the image shows.
func (f *fold) finish() error {
	if !f.begun {
		return nil
	}
	f.begun = false
	f.settle()
	s := &f.at
	if cut := s.above.after(s.shown.layer); s.shown.layer >= 0 && cut >= 0 {
		f.lose(cut, Deleted)
	}
	if s.waste.Bytes > 0 && f.top.wants(s.waste.Bytes) {
		s.waste.Path = pathOf(s.key)
		f.top.add(s.waste)
	}
	f.stack = append(f.stack, frame{slices.Clone(s.key), s.above.union(s.cuts)})
	e := s.shown
	if e.layer < 0 || e.kind != isFile || e.size == 0 {
		return nil
	}
	if kind := kindOf(pathOf(s.key)); kind != "" {
		f.kinds[kindKey{e.layer, kind}] += e.size
	}
	if !e.known {
		return nil
	}
	f.key = contentKey(f.key[:0], e)
	return f.out.add(f.key, s.key)
}

// contentKey orders files by content, and equal ones by layer.
func contentKey(b []byte, e entry) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.size))
	b = append(b, e.hash[:]...)
	return binary.BigEndian.AppendUint16(b, uint16(e.layer))
}

const contentSize = 8 + hashSize // of a key without the layer

// contents walks the files that the image shows, in order of contentKey.
type contents struct {
	fold   *fold
	key    []byte // contentSize bytes
	layers []int
	show   []string
}

// shownPaths is how many paths of a content are listed, one of a layer.
const shownPaths = 5

func (c *contents) record(key, path []byte) error {
	content, layer := key[:contentSize], int(binary.BigEndian.Uint16(key[contentSize:]))
	if !slices.Equal(content, c.key) {
		c.group()
		c.key, c.layers, c.show = append(c.key[:0], content...), nil, nil
	}
	if n := len(c.layers); n > 0 && c.layers[n-1] == layer {
		return nil
	}
	if len(c.layers) > 0 {
		c.fold.layers[layer].Duplicated += c.size()
		c.fold.pair(c.layers[0], layer, Duplicated, c.size())
	}
	c.layers = append(c.layers, layer)
	if len(c.show) < shownPaths {
		c.show = append(c.show, pathOf(path))
	}
	return nil
}

func (c *contents) size() int64 { return int64(binary.BigEndian.Uint64(c.key)) }

// group ends a content.
func (c *contents) group() {
	more := len(c.layers) - 1
	if more < 1 || !c.fold.copies.wants(c.size()*int64(more)) {
		return
	}
	out := Copies{Digest: hex.EncodeToString(c.key[8:]), Size: c.size(), Bytes: c.size() * int64(more), Paths: c.show}
	for _, l := range c.layers {
		out.Layers = append(out.Layers, l+1)
	}
	c.fold.copies.add(out)
}

func (f *fold) report(entries []int64) Report {
	r := Report{Layers: f.layers, TopWasted: f.top.list(), TopCopies: f.copies.list()}
	for i := range r.Layers {
		l := &r.Layers[i]
		l.Entries = entries[i]
		r.Bytes += l.Bytes
		r.Wasted += l.Wasted
		r.Duplicated += l.Duplicated
	}
	r.Efficiency = efficiency(r.Bytes, r.Wasted, r.Duplicated)
	for k, c := range f.pairs {
		r.Pairs = append(r.Pairs, Pair{From: k.from + 1, By: k.by + 1, How: k.how, Files: c.Files, Bytes: c.Bytes})
	}
	slices.SortFunc(r.Pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.By, b.By), cmp.Compare(a.How, b.How))
	})
	for k, n := range f.kinds {
		r.Kinds = append(r.Kinds, Kind{Layer: k.layer + 1, Name: k.name, Shown: n})
	}
	slices.SortFunc(r.Kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Name, b.Name))
	})
	return r
}

// layerSet is a set of layers. Sets are not changed in place; nil is empty.
type layerSet []uint64

func (s layerSet) has(i int) bool { return i/64 < len(s) && s[i/64]>>(i%64)&1 == 1 }

func (s layerSet) with(i int) layerSet {
	if s.has(i) {
		return s
	}
	out := make(layerSet, max(len(s), i/64+1))
	copy(out, s)
	out[i/64] |= 1 << (i % 64)
	return out
}

func (s layerSet) union(o layerSet) layerSet {
	switch {
	case len(o) == 0:
		return s
	case len(s) == 0:
		return o
	}
	out := make(layerSet, max(len(s), len(o)))
	copy(out, s)
	for i, w := range o {
		out[i] |= w
	}
	return out
}

// after is the lowest layer above i, or -1.
func (s layerSet) after(i int) int {
	i++
	for w := i / 64; w < len(s); w++ {
		word := s[w]
		if w == i/64 {
			word &= ^uint64(0) << (i % 64)
		}
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// top keeps the n with the most bytes; of equal ones those that came first.
type top[T any] struct {
	n     int
	bytes func(T) int64
	all   []T // most bytes first
}

func newTop[T any](n int, bytes func(T) int64) *top[T] { return &top[T]{n: n, bytes: bytes} }

func (t *top[T]) wants(bytes int64) bool {
	return len(t.all) < t.n || t.n > 0 && bytes > t.bytes(t.all[len(t.all)-1])
}

func (t *top[T]) add(v T) {
	i, _ := slices.BinarySearchFunc(t.all, t.bytes(v), func(have T, n int64) int {
		if t.bytes(have) >= n {
			return -1
		}
		return 1
	})
	t.all = slices.Insert(t.all, i, v)
	if len(t.all) > t.n {
		t.all = t.all[:t.n]
	}
}

func (t *top[T]) list() []T { return t.all }
