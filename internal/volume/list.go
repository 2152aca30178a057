package volume

import (
	"context"

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

// DiskUsage shows the volumes whose data the default driver keeps, with their
// sizes and users. It walks them.
func (s *Service) DiskUsage(ctx context.Context) (volume.DiskUsage, error) {
	var out volume.DiskUsage
	dr := s.d.Drivers[0]
	for _, e := range s.entries() {
		v := s.show(e)
		if v.Driver != dr.Name() || len(v.Options) > 0 {
			continue
		}
		size, err := dr.Usage(ctx, Spec{Name: v.Name, Options: v.Options})
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err != nil {
			s.d.Log.Warn("size of volume unknown", logkey.Volume, v.Name, logkey.Err, err)
			size = -1
		}
		refs := len(s.refs(e))
		v.UsageData = &volume.UsageData{Size: size, RefCount: int64(refs)}
		out.Items = append(out.Items, v)
		out.TotalCount++
		out.TotalSize += max(size, 0)
		if refs > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += max(size, 0)
		}
	}
	return out, nil
}
