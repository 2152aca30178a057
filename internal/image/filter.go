package image

import (
	"context"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"holdfast.dev/holdfast/internal/base/fault"
)

var (
	listFilters  = []string{"dangling", "label", "label!", "before", "since", "reference", "until"}
	pruneFilters = []string{"dangling", "label", "label!", "until"}
)

type keepFunc func(Record) (bool, error)

// filter makes one test of the API's filters; only the named ones are allowed.
func (s *Service) filter(ctx context.Context, f map[string][]string, allowed []string) (keepFunc, error) {
	for name := range f {
		ok := false
		for _, a := range allowed {
			ok = ok || a == name
		}
		if !ok {
			return nil, fault.New(errdefs.ErrInvalidArgument, "invalid filter '%s'", name)
		}
	}
	var tests []keepFunc
	for _, make := range []func(context.Context, map[string][]string) ([]keepFunc, error){
		s.timeFilters, s.labelFilters, danglingFilter, referenceFilter,
	} {
		ts, err := make(ctx, f)
		if err != nil {
			return nil, err
		}
		tests = append(tests, ts...)
	}
	return func(r Record) (bool, error) {
		for _, t := range tests {
			if ok, err := t(r); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}, nil
}

func (s *Service) created(ctx context.Context, r Record) *time.Time {
	m, err := s.best(ctx, r.Target, nil)
	if err != nil {
		return nil
	}
	return m.Config.Created
}

func (s *Service) timeFilters(ctx context.Context, f map[string][]string) ([]keepFunc, error) {
	var out []keepFunc
	relative := func(value string, test func(mine, other time.Time) bool) error {
		r, err := s.resolve(ctx, value)
		if err != nil {
			return err
		}
		other := s.created(ctx, r)
		if other == nil {
			return nil
		}
		out = append(out, func(r Record) (bool, error) {
			mine := s.created(ctx, r)
			return mine != nil && test(*mine, *other), nil
		})
		return nil
	}
	for _, v := range f["before"] {
		if err := relative(v, time.Time.Before); err != nil {
			return nil, err
		}
	}
	for _, v := range f["since"] {
		if err := relative(v, time.Time.After); err != nil {
			return nil, err
		}
	}
	for _, v := range f["until"] {
		t, err := parseTime(v, s.d.Clock.Now())
		if err != nil {
			return nil, fault.New(errdefs.ErrInvalidArgument, "invalid value for 'until' filter: %s", err)
		}
		out = append(out, func(r Record) (bool, error) { return r.Created.Before(t), nil })
	}
	return out, nil
}

// parseTime reads a Go duration before now, a Unix time, or a date in one of
// the forms that Docker takes.
func parseTime(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, v, now.Location()); err == nil {
			return t, nil
		}
	}
	sec, frac, _ := strings.Cut(v, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var nsec int64
	if frac != "" {
		frac = (frac + "000000000")[:9]
		if nsec, err = strconv.ParseInt(frac, 10, 64); err != nil {
			return time.Time{}, err
		}
	}
	return time.Unix(n, nsec), nil
}

// labelTest is one label or label! filter.
type labelTest struct {
	key, value     string
	exists, negate bool
}

func (t labelTest) passes(labels map[string]string) bool {
	v, has := labels[t.key]
	if t.exists {
		return has != t.negate
	}
	return (has && v == t.value) != t.negate
}

func (s *Service) labelFilters(ctx context.Context, f map[string][]string) ([]keepFunc, error) {
	var tests []labelTest
	for _, name := range []string{"label", "label!"} {
		for _, v := range f[name] {
			k, val, found := strings.Cut(v, "=")
			t := labelTest{key: k, value: val, exists: !found, negate: name == "label!"}
			if cut, ok := strings.CutSuffix(k, "!"); ok {
				t.key, t.negate = cut, !t.negate
			}
			tests = append(tests, t)
		}
	}
	if len(tests) == 0 {
		return nil, nil
	}
	return []keepFunc{func(r Record) (bool, error) {
		all, err := s.d.Content.Manifests(ctx, r.Target)
		if err != nil {
			return false, err
		}
		for _, m := range all {
			if m.Kind != KindImage {
				continue
			}
			ok := true
			for _, t := range tests {
				ok = ok && t.passes(m.Config.Config.Labels)
			}
			if ok {
				return true, nil
			}
		}
		return false, nil
	}}, nil
}

// parseOne reads a filter that is given at most once as a boolean.
func parseOne(f map[string][]string, name string, def bool) (bool, error) {
	vs := f[name]
	if len(vs) == 0 {
		return def, nil
	}
	isTrue, isFalse := false, false
	for _, v := range vs {
		isTrue = isTrue || v == "1" || v == "true"
		isFalse = isFalse || v == "0" || v == "false"
	}
	if isTrue == isFalse {
		return false, fault.New(errdefs.ErrInvalidArgument, "invalid filter '%s=%s'", name, vs)
	}
	return isTrue, nil
}

func danglingFilter(_ context.Context, f map[string][]string) ([]keepFunc, error) {
	if len(f["dangling"]) == 0 {
		return nil, nil
	}
	want, err := parseOne(f, "dangling", false)
	if err != nil {
		return nil, err
	}
	return []keepFunc{func(r Record) (bool, error) { return r.dangling() == want, nil }}, nil
}

func referenceFilter(_ context.Context, f map[string][]string) ([]keepFunc, error) {
	patterns := f["reference"]
	if len(patterns) == 0 {
		return nil, nil
	}
	return []keepFunc{func(r Record) (bool, error) {
		ref, err := reference.ParseNormalizedNamed(r.Name)
		if err != nil {
			return false, nil
		}
		forms := []string{
			reference.FamiliarString(ref), reference.FamiliarName(ref), reference.TagNameOnly(ref).String(), ref.Name(),
		}
		for _, p := range patterns {
			for _, form := range forms {
				if ok, err := path.Match(p, form); err == nil && ok {
					return true, nil
				}
			}
		}
		return false, nil
	}}, nil
}
