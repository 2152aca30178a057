// Package filter matches objects against the API's filters parameter with
// Docker's rules.
package filter

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Args are filter values by key. A key without values doesn't filter.
type Args map[string][]string

// Has tells whether the key was given.
func (a Args) Has(key string) bool {
	_, ok := a[key]
	return ok
}

// Check refuses keys that are not accepted, in Docker's words.
func (a Args) Check(accepted ...string) error {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if !slices.Contains(accepted, k) {
			return fmt.Errorf("invalid filter '%s'", k)
		}
	}
	return nil
}

// Bool reads a yes-or-no filter.
func (a Args) Bool(key string, def bool) (bool, error) {
	if !a.Has(key) {
		return def, nil
	}
	yes := slices.Contains(a[key], "1") || slices.Contains(a[key], "true")
	no := slices.Contains(a[key], "0") || slices.Contains(a[key], "false")
	if yes == no {
		return def, fmt.Errorf("invalid filter '%s=%s'", key, a[key])
	}
	return yes, nil
}

// Exact reports whether s is one of the values.
func (a Args) Exact(key, s string) bool {
	return len(a[key]) == 0 || slices.Contains(a[key], s)
}

// Prefix reports whether s is, or begins with, one of the values.
func (a Args) Prefix(key, s string) bool {
	return len(a[key]) == 0 || slices.ContainsFunc(a[key], func(v string) bool { return strings.HasPrefix(s, v) })
}

// Match reports whether s is one of the values or one of them, read as a
// regular expression, matches.
func (a Args) Match(key, s string) bool {
	if a.Exact(key, s) {
		return true
	}
	return slices.ContainsFunc(a[key], func(v string) bool {
		ok, err := regexp.MatchString(v, s)
		return err == nil && ok
	})
}

// Labels reports whether every value ("key" or "key=value") is among the labels.
func (a Args) Labels(key string, labels map[string]string) bool {
	for _, want := range a[key] {
		k, v, hasValue := strings.Cut(want, "=")
		got, ok := labels[k]
		if !ok || hasValue && got != v {
			return false
		}
	}
	return true
}

// NoLabels is the rule of "label!": an object that has all of the values is
// left out.
func (a Args) NoLabels(key string, labels map[string]string) bool {
	return len(a[key]) == 0 || len(labels) == 0 || !a.Labels(key, labels)
}
