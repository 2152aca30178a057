package dash

import (
	"path"
	"strings"
)

// Union is a container's file system: layers, the upper ones hide what is below.
type Union struct {
	ID, Name, Image string
	Layers          []UnionLayer // uppermost first
}

// UnionLayer is one of them.
type UnionLayer struct {
	Title    string // what made it
	Dir      string
	Bytes    int64 // -1: not known
	Writable bool
	Files    LayerFiles
}

// LayerFiles looks into one layer. The path is absolute and clean; symbolic links
// on the way are not followed: what is behind one is not in the layer.
type LayerFiles interface {
	Look(path string) (LayerEntry, error)
}

// What a layer has at a path.
const (
	Nothing  = ""
	File     = "file"
	Folder   = "folder"
	Link     = "link"
	Whiteout = "whiteout" // it says that what is below does not exist
)

// LayerEntry is what a layer has at a path.
type LayerEntry struct {
	What   string
	Bytes  int64
	Target string // of a link
	Opaque bool   // a folder that hides the one below instead of adding to it
}

// found is what a search found in one layer.
type found struct {
	LayerEntry
	Seen     bool // it is what the container sees, or part of it
	HiddenBy int  // number of the layer that hides it, from 1; 0: none
}

// search says for each layer what it has at the path, and whether the container
// sees it. The second result is the path without links on the way to it.
func search(layers []UnionLayer, where string) ([]found, string, error) {
	where = path.Clean("/" + where)
	for range maxLinks {
		again, err := throughLink(layers, where)
		if err != nil {
			return nil, where, err
		}
		if again == "" {
			out, err := at(layers, where)
			return out, where, err
		}
		where = again
	}
	return nil, where, nil // links in a circle lead nowhere
}

// maxLinks is the kernel's limit.
const maxLinks = 40

// throughLink rewrites the path where a folder on the way is a link; else "".
func throughLink(layers []UnionLayer, where string) (string, error) {
	for _, prefix := range parents(where) {
		here, err := at(layers, prefix)
		if err != nil {
			return "", err
		}
		for _, f := range here {
			if !f.Seen || f.What != Link {
				continue
			}
			target := f.Target
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(prefix), target)
			}
			return path.Join("/", target, strings.TrimPrefix(where, prefix)), nil
		}
	}
	return "", nil
}

// parents are the folders on the way to a path, the root not among them.
func parents(where string) []string {
	var out []string
	for i, c := range where {
		if c == '/' && i > 0 {
			out = append(out, where[:i])
		}
	}
	return out
}

// at looks at the path in every layer. A layer hides the path in those below it
// where it has something else than a folder to add to, there or on the way.
func at(layers []UnionLayer, where string) ([]found, error) {
	out := make([]found, len(layers))
	hider := 0
	for i, l := range layers {
		hides := false
		for _, p := range append(parents(where), where) {
			e, err := l.Files.Look(p)
			if err != nil {
				return nil, err
			}
			hides = hides || e.What == Whiteout || e.What == File || e.What == Link || e.What == Folder && e.Opaque
			if p == where {
				out[i].LayerEntry = e
			}
			if e.What == Nothing {
				break // nor anything below it
			}
		}
		out[i].HiddenBy = hider
		out[i].Seen = hider == 0 && out[i].What != Nothing && out[i].What != Whiteout
		if hides && hider == 0 {
			hider = i + 1
		}
	}
	return out, nil
}
