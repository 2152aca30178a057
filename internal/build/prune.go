package build

import (
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// truths are filters that are true or false, and what the builder's say for each.
var truths = map[string][2]string{
	"inuse":   {"inuse", "idle"},
	"shared":  {"shared", "private"},
	"private": {"private", "shared"},
}

// AddFilter adds one filter of the API. until and unused-for are ages; the others are
// BuildKit's own, with ! for "not" and ~ for "matches".
func (o *PruneOptions) AddFilter(key, value string) error {
	switch key {
	case "until", "unused-for":
		d, err := time.ParseDuration(value)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%q filter expects a duration (e.g., '24h'): %s", key, err)
		}
		if o.UnusedIn != 0 && o.UnusedIn != d {
			return fault.New(errdefs.ErrInvalidArgument, "filters expect only one value: until")
		}
		o.UnusedIn = d
		return nil
	case "label": // which no record has
		o.Nothing = true
		return nil
	case "label!":
		return nil
	case "id":
		o.Filters = append(o.Filters, "id~="+value)
		return nil
	}
	if yes, no := truths[key][0], truths[key][1]; yes != "" && value != "" {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "invalid filter '%s=%s': want true or false", key, value)
		}
		if !b {
			yes = no
		}
		o.Filters = append(o.Filters, yes)
		return nil
	}
	name, op := key, "=="
	if n, ok := strings.CutSuffix(key, "!"); ok {
		name, op = n, "!="
	}
	switch name {
	case "parent", "type", "description", "inuse", "shared", "private":
	default:
		return fault.New(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
	}
	if value == "" {
		o.Filters = append(o.Filters, name)
	} else {
		o.Filters = append(o.Filters, name+op+value)
	}
	return nil
}
