package image

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Save writes the named images into one archive. A name without a tag means
// all tags of its repository.
func (s *Service) Save(ctx context.Context, refs []string, want []ocispec.Platform, w io.Writer) (err error) {
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	var list []Export
	for _, ref := range refs {
		if list, err = s.export(held, list, ref); err != nil {
			return err
		}
	}
	for _, e := range list {
		for _, p := range want {
			m, err := s.best(held, e.Target, &p)
			if err != nil || !m.Complete {
				return errNoPlatform(e.Target.Digest.String(), p)
			}
		}
	}
	if err := s.d.Archives.Save(held, w, list, want); err != nil {
		return err
	}
	for _, e := range list {
		id := e.Target.Digest.String()
		s.emit(events.ActionSave, id, id, s.labels(held, e.Target))
	}
	return nil
}

// export adds what ref means to the list.
func (s *Service) export(ctx context.Context, list []Export, ref string) ([]Export, error) {
	r, err := s.resolve(ctx, ref)
	byID := err == nil && (isIDPrefix(r.ID(), ref) || strings.Contains(ref, "@"))
	if named, perr := reference.ParseNormalizedNamed(ref); perr == nil && !byID && reference.IsNameOnly(named) {
		all, lerr := s.repository(ctx, named)
		if lerr != nil {
			return nil, lerr
		}
		if len(all) == 0 {
			return nil, errNoImage(named)
		}
		for _, r := range all {
			list = addExport(list, r.Target, r.Name)
		}
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	if byID {
		return addExport(list, r.Target, ""), nil
	}
	return addExport(list, r.Target, r.Name), nil
}

func addExport(list []Export, target ocispec.Descriptor, name string) []Export {
	for i := range list {
		e := &list[i]
		if e.Target.Digest != target.Digest {
			continue
		}
		if name != "" && !slices.Contains(e.Names, name) {
			e.Names = append(e.Names, name)
		}
		return list
	}
	e := Export{Target: target}
	if name != "" {
		e.Names = []string{name}
	}
	return append(list, e)
}

// repository lists the tags of a repository, by name.
func (s *Service) repository(ctx context.Context, repo reference.Named) ([]Record, error) {
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, r := range all {
		ref, err := reference.ParseNamed(r.Name)
		if err != nil || ref.Name() != repo.Name() {
			continue
		}
		if _, ok := ref.(reference.Tagged); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
