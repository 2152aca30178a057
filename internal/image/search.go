package image

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/filter"
)

// SearchOptions say what to look for in a registry.
type SearchOptions struct {
	Remote
	// Term is what to look for; a registry's name may stand before it, as before
	// the name of an image.
	Term    string
	Limit   int // 0: searchLimit
	Filters filter.Args
}

const (
	defaultIndex = "docker.io"
	// searchLimit is how many answers are asked for by default, maxSearchLimit at most.
	searchLimit, maxSearchLimit = 25, 100
)

// Search asks a registry which repositories it has.
func (s *Service) Search(ctx context.Context, o SearchOptions) ([]registry.SearchResult, error) {
	keep, err := searchFilter(o.Filters)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	out := []registry.SearchResult{}
	if keep == nil {
		return out, nil
	}
	if strings.Contains(o.Term, "://") {
		return nil, fault.New(errdefs.ErrInvalidArgument, "invalid repository name: repository name (%s) should not have a scheme", o.Term)
	}
	limit := cmp.Or(o.Limit, searchLimit)
	if limit < 1 || limit > maxSearchLimit {
		return nil, fault.New(errdefs.ErrInvalidArgument, "limit %d is outside the range of [1, %d]", limit, maxSearchLimit)
	}
	index, term := splitTerm(o.Term)
	all, err := s.d.Registry.Search(ctx, index, term, limit, o.Remote)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		r.IsAutomated = false //nolint:staticcheck // deprecated: Docker's clients are told so of every repository
		if keep(r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// splitTerm takes the registry from what is looked for. The default index names
// its official repositories without the folder they are kept in.
func splitTerm(s string) (index, term string) {
	host, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok || !strings.ContainsAny(host, ".:") && host != "localhost":
		index, term = defaultIndex, s
	case host == "index."+defaultIndex:
		index, term = defaultIndex, rest
	default:
		index, term = host, rest
	}
	if index == defaultIndex {
		term = strings.TrimPrefix(term, "library/")
	}
	return index, term
}

// searchFilter makes a filter of the answers; nil where none can pass.
func searchFilter(f filter.Args) (func(registry.SearchResult) bool, error) {
	if err := f.Check("is-automated", "is-official", "stars"); err != nil {
		return nil, err
	}
	automated, err := f.Bool("is-automated", false)
	if err != nil {
		return nil, err
	}
	official, err := f.Bool("is-official", false)
	if err != nil {
		return nil, err
	}
	stars := 0
	for _, v := range f["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, fault.New(errdefs.ErrInvalidArgument, "invalid filter 'stars=%s': %s", v, err)
		}
		stars = max(stars, n)
	}
	if automated {
		return nil, nil
	}
	return func(r registry.SearchResult) bool {
		return (!f.Has("is-official") || r.IsOfficial == official) && (!f.Has("stars") || r.StarCount >= stars)
	}, nil
}
