package image

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
)

// Prunable is a name of an image that may go, and with the last one the image.
type Prunable struct {
	ID     string
	Name   string // as users write it; the ID of an image without one
	Why    string
	Last   bool      // of the names: the image goes with it
	Since  time.Time // it got this name
	Labels map[string]string

	rec Record
}

// Prunable lists what may go of images that no container uses: those without a
// name or, with dangling=false, all. Containers for which gone is true are taken
// for removed; gone may be nil.
func (s *Service) Prunable(ctx context.Context, filters map[string][]string, gone func(container string) bool) ([]Prunable, error) {
	danglingOnly, err := parseOne(filters, "dangling", true)
	if err != nil {
		return nil, err
	}
	rest := map[string][]string{}
	for k, v := range filters {
		if k != "dangling" {
			rest[k] = v
		}
	}
	keep, err := s.filter(ctx, rest, pruneFilters)
	if err != nil {
		return nil, err
	}
	return s.prunable(ctx, danglingOnly, keep, gone)
}

// Prune removes images that no container uses: those without a name or, with
// dangling=false, all.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (image.PruneReport, error) {
	return s.prune(ctx, filters, func(Prunable) bool { return true })
}

// PruneThese is Prune for what is in the plan.
func (s *Service) PruneThese(ctx context.Context, filters map[string][]string, plan []Prunable) (image.PruneReport, error) {
	type key struct{ id, name string }
	wanted := map[key]bool{}
	for _, p := range plan {
		wanted[key{p.ID, p.rec.Name}] = true
	}
	return s.prune(ctx, filters, func(p Prunable) bool { return wanted[key{p.ID, p.rec.Name}] })
}

func (s *Service) prune(ctx context.Context, filters map[string][]string, wanted func(Prunable) bool) (image.PruneReport, error) {
	var report image.PruneReport
	if !s.pruning.TryLock() {
		return report, fault.New(errdefs.ErrConflict, "a prune operation is already running")
	}
	defer s.pruning.Unlock()
	s.names.Lock()
	defer s.names.Unlock()
	plan, err := s.Prunable(ctx, filters, nil)
	if err != nil {
		return report, err
	}
	var recs []Record
	for _, p := range plan {
		if !wanted(p) {
			continue
		}
		end, ok := s.claims.remove(p.rec.Target.Digest)
		if !ok { // a container is being made of it
			continue
		}
		defer end()
		recs = append(recs, p.rec)
	}
	// Once more, now that none can be claimed: a container may have been made of
	// one since the list was.
	users := s.d.Users.Users(ctx)
	recs = slices.DeleteFunc(recs, func(r Record) bool {
		return slices.ContainsFunc(users, func(u User) bool { return u.ImageID == r.ID() }) && !s.spare(plan, r, users)
	})
	if len(recs) == 0 {
		s.d.Events.Publish(pruned(0))
		return report, nil
	}
	return s.take(ctx, recs)
}

// spare says that the image of a record stays without it, and its users too.
func (s *Service) spare(plan []Prunable, r Record, users []User) bool {
	return !usedByName(r, users) && !slices.ContainsFunc(plan, func(p Prunable) bool { return p.Last && p.ID == r.ID() })
}

// prunable lists the names to take away. The last name of an image in use stays.
func (s *Service) prunable(ctx context.Context, danglingOnly bool, match keepFunc, gone func(string) bool) ([]Prunable, error) {
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	users := s.d.Users.Users(ctx)
	if gone != nil {
		users = slices.DeleteFunc(users, func(u User) bool { return gone(u.ID) })
	}
	names := map[digest.Digest]int{}
	var recs []Record
	for _, r := range all {
		names[r.Target.Digest]++
		if danglingOnly && !r.dangling() || usedByName(r, users) || r.ofSwarm() {
			continue
		}
		ok, err := match(r)
		if err != nil {
			return nil, err
		}
		if ok {
			recs = append(recs, r)
		}
	}
	slices.SortFunc(recs, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	var plan []Prunable
	for _, r := range recs {
		left := names[r.Target.Digest]
		used := slices.ContainsFunc(users, func(u User) bool { return u.ImageID == r.ID() })
		if left == 1 && used {
			continue
		}
		names[r.Target.Digest]--
		p := Prunable{ID: r.ID(), Name: r.familiar(), Last: left == 1, Since: r.Created, Labels: s.labels(ctx, r.Target), Why: "no container uses it", rec: r}
		switch {
		case r.dangling():
			p.Why = "it has no name, and no container uses it"
		case used:
			p.Why = "no container uses it by this name; the image keeps another"
		}
		plan = append(plan, p)
	}
	return plan, nil
}

// usedByName says whether a container was made with just this name, or whose
// image this dangling record keeps.
func usedByName(r Record, users []User) bool {
	for _, u := range users {
		if r.dangling() {
			if u.ImageID == r.ID() {
				return true
			}
			continue
		}
		ref, err := reference.ParseNormalizedNamed(u.Image)
		if err != nil || u.ImageID != r.ID() {
			continue
		}
		if named, err := reference.ParseNormalizedNamed(r.Name); err == nil && sameTag(named, ref) {
			return true
		}
	}
	return false
}

func sameTag(a, b reference.Named) bool {
	x, xok := reference.TagNameOnly(a).(reference.Tagged)
	y, yok := reference.TagNameOnly(b).(reference.Tagged)
	return a.Name() == b.Name() && xok && yok && x.Tag() == y.Tag()
}

// take takes the names away and tells what went with them.
func (s *Service) take(ctx context.Context, plan []Record) (image.PruneReport, error) {
	var report image.PruneReport
	before := map[digest.Digest]measured{}
	names := make([]string, len(plan))
	for i, r := range plan {
		names[i] = r.Name
		all, err := s.d.Content.Manifests(ctx, r.Target)
		if err != nil {
			return report, err
		}
		if before[r.Target.Digest], err = s.measure(ctx, all); err != nil {
			return report, err
		}
	}
	err := failpoint.Hit("image.prune.beforeNames")
	if err == nil {
		err = s.d.Records.Delete(context.WithoutCancel(ctx), true, names...)
	}
	if err == nil {
		err = failpoint.Hit("image.prune.afterNames")
	}
	if err != nil {
		return report, err
	}
	for _, r := range plan {
		s.emit(events.ActionUnTag, r.ID(), r.familiar(), nil)
		report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Untagged: r.familiar()})
	}
	counted := countedOnce{blobs: map[digest.Digest]bool{}, layers: map[digest.Digest]bool{}}
	for d, m := range before {
		has, err := s.d.Content.Has(ctx, d)
		if err != nil {
			return report, err
		}
		if has {
			continue
		}
		s.emit(events.ActionDelete, d.String(), d.String(), nil)
		report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Deleted: d.String()})
		freed, err := s.freed(ctx, m, counted)
		if err != nil {
			return report, err
		}
		report.SpaceReclaimed += freed
	}
	s.d.Events.Publish(pruned(report.SpaceReclaimed))
	return report, nil
}

// countedOnce tells what was counted before. A lowest layer has the digest of
// its uncompressed blob: the two are kept apart.
type countedOnce struct {
	blobs, layers map[digest.Digest]bool
}

// freed sums what of a measured image is really gone, each thing once.
func (s *Service) freed(ctx context.Context, m measured, counted countedOnce) (uint64, error) {
	var n uint64
	for d, size := range m.blobs {
		has, err := s.d.Content.Has(ctx, d)
		if err != nil {
			return n, err
		}
		if !has && !counted.blobs[d] {
			n += uint64(size)
		}
		counted.blobs[d] = true
	}
	for c, size := range m.layers {
		has, err := s.d.Layers.HasLayer(ctx, c)
		if err != nil {
			return n, err
		}
		if !has && !counted.layers[c] {
			n += uint64(size)
		}
		counted.layers[c] = true
	}
	return n, nil
}

func pruned(bytes uint64) events.Message {
	return events.Message{
		Type:   events.ImageEventType,
		Action: events.ActionPrune,
		Actor:  events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(bytes, 10)}},
		Scope:  "local",
	}
}
