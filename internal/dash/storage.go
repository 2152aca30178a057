package dash

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// Storage is what the engine knows about its disk at one moment.
type Storage struct {
	Root       string
	Total      int64 // bytes of the file system that holds Root
	Free       int64 // of these, for the engine
	Images     []Image
	Containers []Thing // their writable layers
	Volumes    []Thing
	Snapshots  []Thing // of volumes
	Trash      []Thing // removed volumes
	Cache      int64   // of builds, without what images have as well
}

// Image is an image and what it is made of: bytes by name of layer or blob, which
// others may have, too.
type Image struct {
	ID    string
	Names []string
	Used  bool // by a container
	Parts map[string]int64
}

// Thing is something of one owner.
type Thing struct {
	ID    string
	Name  string
	Bytes int64 // on the disk; -1: not measured yet
	InUse bool
	Aged  bool // somebody may have written since it was measured
}

// Kinds of what is on the disk, which are also classes of the style sheet.
const (
	Layers     = "layers"
	Containers = "containers"
	Volumes    = "volumes"
	Snapshots  = "snapshots"
	Trash      = "trash"
	Cache      = "cache"
)

// kinds are all kinds with their names for people, as they are stacked.
func kinds() []struct{ Class, Title string } {
	return []struct{ Class, Title string }{
		{Layers, "Images"},
		{Containers, "Containers"},
		{Volumes, "Volumes"},
		{Snapshots, "Snapshots"},
		{Trash, "Trash"},
		{Cache, "Build cache"},
	}
}

// block is one group on the map.
type block struct {
	Class string
	Title string
	Bytes int64
	Place Rect
	Tiles []tile
}

// tile is one thing on the map.
type tile struct {
	Title  string // what it is, in words
	Label  string
	Bytes  int64
	Unused bool
	Place  Rect
}

// The map's size, in the units of its picture, and the height of a group's title.
const (
	mapWidth  = 1000
	mapHeight = 480
	heading   = 20
)

// draw makes the map of what is on the disk: a layer is drawn once, however many
// images have it.
func draw(s Storage) []block {
	tiles := map[string][]tile{
		Layers:     layerTiles(s.Images),
		Containers: thingTiles(s.Containers, "writable layer of "),
		Volumes:    thingTiles(s.Volumes, "volume "),
		Snapshots:  thingTiles(s.Snapshots, "snapshot "),
		Trash:      thingTiles(s.Trash, "removed volume "),
		Cache:      {{Title: "build cache", Label: "cache", Bytes: s.Cache}},
	}
	var blocks []block
	for _, k := range kinds() {
		blocks = append(blocks, block{Class: k.Class, Title: k.Title, Tiles: tiles[k.Class]})
	}
	sizes := make([]float64, len(blocks))
	for i := range blocks {
		for _, t := range blocks[i].Tiles {
			blocks[i].Bytes += t.Bytes
		}
		sizes[i] = float64(blocks[i].Bytes)
	}
	places := Tile(sizes, Rect{0, 0, mapWidth, mapHeight})
	drawn := blocks[:0]
	for i, b := range blocks {
		b.Place = places[i]
		inner := b.Place
		if inner.H > 2*heading {
			inner.Y, inner.H = inner.Y+heading, inner.H-heading
		}
		of := make([]float64, len(b.Tiles))
		for k, t := range b.Tiles {
			of[k] = float64(t.Bytes)
		}
		for k, r := range Tile(of, inner) {
			b.Tiles[k].Place = r
		}
		if b.Bytes > 0 {
			drawn = append(drawn, b)
		}
	}
	return drawn
}

// layerTiles are the parts of all images, each once, largest first.
func layerTiles(images []Image) []tile {
	type part struct {
		bytes int64
		of    []string
		used  bool
	}
	parts := map[string]*part{}
	for _, i := range images {
		for name, n := range i.Parts {
			p := parts[name]
			if p == nil {
				p = &part{bytes: n}
				parts[name] = p
			}
			p.of = append(p.of, i.title())
			p.used = p.used || i.Used
		}
	}
	tiles := make([]tile, 0, len(parts))
	for name, p := range parts {
		if p.bytes <= 0 {
			continue
		}
		slices.Sort(p.of)
		label := p.of[0]
		if len(p.of) > 1 {
			label = fmt.Sprintf("%d images", len(p.of))
		}
		tiles = append(tiles, tile{Title: short(name) + " of " + strings.Join(p.of, ", "), Label: label, Bytes: p.bytes, Unused: !p.used})
	}
	slices.SortFunc(tiles, func(a, b tile) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Title, b.Title))
	})
	return tiles
}

func thingTiles(things []Thing, what string) []tile {
	var tiles []tile
	for _, t := range things {
		if t.Bytes > 0 {
			tiles = append(tiles, tile{Title: what + t.Name, Label: t.Name, Bytes: t.Bytes, Unused: !t.InUse})
		}
	}
	return tiles
}

func (i Image) title() string {
	if len(i.Names) == 0 {
		return short(i.ID)
	}
	return i.Names[0]
}

// short leaves 12 digits of a digest, wherever it stands.
func short(s string) string {
	before, digest, ok := strings.Cut(s, "sha256:")
	if !ok || len(digest) < 12 {
		return s
	}
	return before + digest[:12]
}

// size is for people.
func size(n int64) string {
	if n < 0 {
		return "not measured yet"
	}
	return units.HumanSizeWithPrecision(float64(n), 3)
}
