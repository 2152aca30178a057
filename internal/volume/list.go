package volume

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Inspect shows a volume.
func (s *Service) Inspect(_ context.Context, name string) (volume.Volume, error) {
	s.mu.Lock()
	e := s.byName[name]
	s.mu.Unlock()
	if e == nil {
		_, err := s.get(name)
		return volume.Volume{}, err
	}
	return s.show(e), nil
}

func (s *Service) show(e *entry) volume.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.toAPI(e)
}

// List shows the volumes that pass the filters, by name.
func (s *Service) List(_ context.Context, filters map[string][]string) ([]volume.Volume, error) {
	f := filter.Args(filters)
	if err := f.Check("dangling", "name", "driver", "label"); err != nil {
		return nil, invalid(err)
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, invalid(err)
	}
	out := []volume.Volume{}
	for _, e := range s.entries() {
		if f.Has("dangling") && dangling != (len(s.refs(e)) == 0) {
			continue
		}
		v := s.show(e)
		if f.Match("name", v.Name) && f.Exact("driver", v.Driver) && f.Labels("label", v.Labels) {
			out = append(out, v)
		}
	}
	return out, nil
}

// entries returns the volumes by name.
func (s *Service) entries() []*entry {
	out := []*entry{}
	for _, n := range s.names() {
		if e, err := s.get(n); err == nil {
			out = append(out, e)
		}
	}
	return out
}

// Place is where the data of a volume is that the engine itself keeps.
type Place struct {
	Name    string
	Dir     string
	Open    bool // somebody has it mounted
	Cheap   bool // its driver tells its size without a walk
	Created time.Time
}

// Places tells of the volumes whose data is here. The data of
// others is elsewhere and has no size here.
func (s *Service) Places() []Place {
	var out []Place
	for _, e := range s.entries() {
		if p, ok := s.place(e); ok {
			out = append(out, p)
		}
	}
	return out
}

// Place tells of one volume.
func (s *Service) Place(name string) (Place, bool) {
	e, err := s.get(name)
	if err != nil {
		return Place{}, false
	}
	return s.place(e)
}

func (s *Service) place(e *entry) (Place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.keepsHere(&e.rec) {
		return Place{}, false
	}
	dr := s.drivers[e.rec.Driver]
	return Place{Name: e.rec.Name, Dir: dr.Path(e.rec.spec()), Open: len(e.mounts) > 0, Cheap: dr.Capabilities().CheapSize, Created: e.rec.Created}, true
}

// Usage is the size of a volume as its driver tells it.
func (s *Service) Usage(ctx context.Context, name string) (int64, error) {
	e, err := s.get(name)
	if err != nil {
		return 0, err
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	v := e.rec.spec()
	s.mu.Unlock()
	return dr.Usage(ctx, v)
}

// DiskUsage shows the volumes whose data is here, with their
// users and the sizes that size tells.
func (s *Service) DiskUsage(ctx context.Context, size func(ctx context.Context, name string) (int64, error)) (volume.DiskUsage, error) {
	var out volume.DiskUsage
	for _, e := range s.entries() {
		if _, ok := s.place(e); !ok {
			continue
		}
		v := s.show(e)
		n, err := size(ctx, v.Name)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if errdefs.IsNotFound(err) {
			if _, gerr := s.get(v.Name); gerr != nil {
				continue // removed meanwhile
			}
		}
		if err != nil {
			s.d.Log.Warn("size of volume unknown", logkey.Volume, v.Name, logkey.Err, err)
			n = -1
		}
		refs := len(s.refs(e))
		v.UsageData = &volume.UsageData{Size: n, RefCount: int64(refs)}
		out.Items = append(out.Items, v)
		out.TotalCount++
		out.TotalSize += max(n, 0)
		if refs > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += max(n, 0)
		}
	}
	return out, nil
}
