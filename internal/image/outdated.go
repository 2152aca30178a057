package image

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// Move is a name that went from one image to another. Images built on the
// former are known by its layers.
type Move struct {
	Name    string        // full reference
	ImageID string        // of the image that lost it
	Chain   digest.Digest // of that image's top layer
	At      time.Time
}

// key names the move: a later one of the same name away from the same layers
// takes its place.
func (m Move) key() string { return m.Name + " " + m.Chain.String() }

// Moves are the names that moved. They are kept while the layers are there.
type Moves interface {
	All() ([]*Move, error)
	Put(key string, m *Move) error
	Delete(key string) error
}

// Outdated is an image that stands on an old base.
type Outdated struct {
	ID         string
	Names      []string // familiar; empty for a dangling image
	Created    time.Time
	Base       string // familiar name of the base
	BaseID     string // what it meant when the image was built on it
	CurrentID  string // what it means now
	Since      time.Time
	Containers []string
}

// noteMove remembers that r's name is about to go to another image. That it
// cannot is no reason not to move it: only the answer of Outdated suffers.
func (s *Service) noteMove(ctx context.Context, r Record) {
	err := func() error {
		m, err := s.best(ctx, r.Target, nil)
		if err != nil || len(m.Config.RootFS.DiffIDs) == 0 {
			return err
		}
		move := &Move{Name: r.Name, ImageID: r.ID(), Chain: identity.ChainID(m.Config.RootFS.DiffIDs), At: s.d.Clock.Now().UTC()}
		return s.d.Moves.Put(move.key(), move)
	}()
	if err != nil {
		s.d.Log.Warn("images on the old base will not be told", logkey.Image, r.Name, logkey.Err, err)
	}
}

// Outdated lists the images that were built on one whose name has since gone to
// another, and what they stand on, in order of their names.
func (s *Service) Outdated(ctx context.Context) ([]Outdated, error) {
	records, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	chains := map[digest.Digest][]digest.Digest{} // image → chain IDs of its layers
	created := map[digest.Digest]time.Time{}
	current := map[string]digest.Digest{} // name → image
	groups := map[digest.Digest][]Record{}
	for _, r := range records {
		d := r.Target.Digest
		current[r.Name] = d
		groups[d] = append(groups[d], r)
		if _, ok := chains[d]; ok {
			continue
		}
		chains[d] = nil
		m, err := s.best(ctx, r.Target, nil)
		if err != nil {
			continue // content for another machine only: it stands on nothing here
		}
		chains[d] = identity.ChainIDs(slices.Clone(m.Config.RootFS.DiffIDs))
		if m.Config.Created != nil {
			created[d] = *m.Config.Created
		}
	}
	moves, err := s.moves(ctx)
	if err != nil {
		return nil, err
	}
	var out []Outdated
	for d, layers := range chains {
		move := oldBase(d, layers, moves, func(m Move) []digest.Digest { return chains[current[m.Name]] })
		if move == nil {
			continue
		}
		o := Outdated{
			ID: d.String(), Created: created[d], BaseID: move.ImageID, CurrentID: current[move.Name].String(), Since: move.At,
			Base: familiarName(move.Name), Names: []string{}, Containers: []string{},
		}
		for _, r := range groups[d] {
			if !r.dangling() {
				o.Names = append(o.Names, r.familiar())
			}
		}
		slices.Sort(o.Names)
		for _, u := range s.d.Users.Users(ctx) {
			if u.ImageID == o.ID {
				o.Containers = append(o.Containers, u.ID)
			}
		}
		if len(o.Names)+len(o.Containers) == 0 {
			continue // dangling and unused: prune's business, not the user's
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Outdated) int {
		return strings.Compare(strings.Join(append(a.Names, a.ID), " "), strings.Join(append(b.Names, b.ID), " "))
	})
	return out, nil
}

// oldBase finds the base that an image stands on though its name has gone to
// another: the topmost of those that moved. now tells the layers of what a
// move's name means now.
func oldBase(image digest.Digest, layers []digest.Digest, moves []Move, now func(Move) []digest.Digest) *Move {
	var best *Move
	height := -1
	for _, m := range moves {
		h := slices.Index(layers, m.Chain)
		if h < 0 || m.ImageID == image.String() || h <= height {
			continue
		}
		top := now(m)
		if len(top) == 0 || slices.Contains(layers, top[len(top)-1]) {
			continue // the name is gone, or the image stands on what it means now
		}
		best, height = &m, h
	}
	return best
}

// moves lists the remembered moves and forgets those whose layers are gone.
func (s *Service) moves(ctx context.Context) ([]Move, error) {
	all, err := s.d.Moves.All()
	if err != nil {
		return nil, fmt.Errorf("read the moves of image names: %w", err)
	}
	var out []Move
	for _, m := range all {
		has, err := s.d.Layers.HasLayer(ctx, m.Chain)
		if err != nil {
			return nil, err
		}
		if has {
			out = append(out, *m)
			continue
		}
		if err := s.d.Moves.Delete(m.key()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func familiarName(name string) string {
	ref, err := reference.ParseNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(ref)
}
