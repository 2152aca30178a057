package cluster

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/fault"
)

// labelFilter reads "key" and "key=value".
func labelFilter(vs []string) map[string]string {
	if len(vs) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, v := range vs {
		k, val, _ := strings.Cut(v, "=")
		out[k] = val
	}
	return out
}

// selection is how one object is searched: by names or by the beginnings of IDs.
type selection struct {
	names, prefixes []string
}

// find resolves what a user wrote: a full ID, then a name, then the beginning
// of an ID.
func find[T any](
	ctx context.Context, kind, ref string,
	get func(context.Context, string) (T, error),
	list func(context.Context, selection) ([]T, error),
) (T, error) {
	var none T
	if ref == "" {
		return none, invalid("invalid %s: no name or ID", kind)
	}
	v, err := get(ctx, ref)
	if err == nil || status.Code(err) != codes.NotFound {
		return v, err
	}
	for _, sel := range []selection{{names: []string{ref}}, {prefixes: []string{ref}}} {
		vs, err := list(ctx, sel)
		switch {
		case err != nil:
			return none, err
		case len(vs) == 1:
			return vs[0], nil
		case len(vs) > 1:
			return none, invalid("%s %s is ambiguous (%d matches found)", kind, ref, len(vs))
		}
	}
	return none, fault.New(errdefs.ErrNotFound, "%s %s not found", kind, ref)
}
