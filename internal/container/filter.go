package container

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
)

// filter is a set of API filters: within a key any value may match, all keys must.
type filter struct{ by map[string][]string }

func newFilter(in map[string][]string, known ...string) (filter, error) {
	for key, vals := range in {
		if !slices.Contains(known, key) {
			return filter{}, invalid("invalid filter '%s'", key)
		}
		if len(vals) == 0 {
			return filter{}, invalid("invalid filter '%s'", key)
		}
	}
	return filter{by: in}, nil
}

func (f filter) has(key string) bool { return len(f.by[key]) > 0 }

// exact says whether the value is among those asked for, or none were.
func (f filter) exact(key, value string) bool {
	return !f.has(key) || slices.Contains(f.by[key], value)
}

// match is exact with the values taken for regular expressions, as Docker does
// for names.
func (f filter) match(key, value string) bool {
	if f.exact(key, value) {
		return true
	}
	return slices.ContainsFunc(f.by[key], func(pattern string) bool {
		re, err := regexp.Compile(pattern)
		return err == nil && re.MatchString(value)
	})
}

// labels matches all of label= and none of label!=.
func (f filter) labels(have map[string]string) bool {
	return holdsAll(have, f.by["label"]) && !slices.ContainsFunc(f.by["label!"], func(not string) bool { return holds(have, not) })
}

// annotations matches all of annotation=.
func (f filter) annotations(have map[string]string) bool { return holdsAll(have, f.by["annotation"]) }

func holdsAll(have map[string]string, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(want string) bool { return !holds(have, want) })
}

// holds says whether the map has "key", or "key=value".
func holds(have map[string]string, want string) bool {
	key, val, hasVal := strings.Cut(want, "=")
	got, ok := have[key]
	return ok && (!hasVal || got == val)
}

// until reads the one "until" value: a time stamp, or a duration before now.
func (f filter) until(now time.Time) (time.Time, error) {
	vals := f.by["until"]
	if len(vals) == 0 {
		return time.Time{}, nil
	}
	if len(vals) > 1 {
		return time.Time{}, invalid("more than one until filter specified")
	}
	v := vals[0]
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if sec, frac, _ := strings.Cut(v, "."); true {
		if n, err := strconv.ParseInt(sec, 10, 64); err == nil {
			nanos, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
			if err == nil {
				return time.Unix(n, nanos), nil
			}
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid value for \"until\": %s", v)
}

// boolean reads a filter that is true or false.
func (f filter) boolean(key string) (value, given bool, err error) {
	if !f.has(key) {
		return false, false, nil
	}
	vals := f.by[key]
	if len(vals) == 1 {
		switch vals[0] {
		case "1", "true":
			return true, true, nil
		case "0", "false":
			return false, true, nil
		}
	}
	return false, true, invalid("invalid filter '%s=%s'", key, vals)
}

// ports reads a publish or expose filter into single ports.
func (f filter) ports(key string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, v := range f.by[key] {
		if strings.Contains(v, ":") {
			return nil, invalid("filter for '%s' should not contain ':': %s", key, v)
		}
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, invalid("error while looking up for %s %s: %s", key, v, err)
		}
		for p := range r.All() {
			out[p.String()] = true
		}
	}
	return out, nil
}
