package image

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// someRecords are two images, one without a name.
type someRecords struct{ Records }

func (someRecords) List(context.Context) ([]Record, error) {
	d := ocispec.Descriptor{Digest: someDigest}
	return []Record{{Name: "docker.io/library/busybox:latest", Target: d}, {Name: danglingName(d.Digest), Target: d}}, nil
}

func (r someRecords) Get(ctx context.Context, name string) (Record, error) {
	all, _ := r.List(ctx)
	for _, one := range all {
		if one.Name == name {
			return one, nil
		}
	}
	return Record{}, fault.New(errdefs.ErrNotFound, "no %s", name)
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{
		"busybox", "busybox:latest", "docker.io/library/busybox@" + someDigest, someDigest, "0123456789ab", "sha256:0123", "localhost:5000/a/b:c",
		"", ":", "@", "a@b", "UPPER", "a:" + strings.Repeat("x", 200), "[::1]:5000/a", "a//b", DanglingPrefix + someDigest, "library/busybox@sha256:xyz",
	} {
		f.Add(s, "1.0")
	}
	f.Add("a", "-")
	f.Add("a@"+someDigest, "")
	s := &Service{d: Deps{Records: someRecords{}}}
	f.Fuzz(func(t *testing.T, ref, tag string) {
		r, err := s.resolve(t.Context(), ref)
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("class of %v", err)
		}
		if err == nil && r.Target.Digest != someDigest {
			t.Errorf("%q is %+v", ref, r)
		}
		named, err := ParseRef(ref, tag)
		switch {
		case err != nil && !errdefs.IsInvalidArgument(err):
			t.Errorf("class of %v", err)
		case err == nil && named != nil:
			if again, err := reference.ParseNamed(named.String()); err != nil || again.String() != named.String() {
				t.Errorf("%q:%q is %q, which is %v, %v", ref, tag, named, again, err)
			}
		}
	})
}

func FuzzImageFilters(f *testing.F) {
	f.Add(`{"label":["a=b"],"label!":["c"],"dangling":["true"],"reference":["busy*:l?test"],"until":["24h"]}`)
	f.Add(`{"reference":["["],"dangling":["x"],"until":["1.99999"]}`)
	f.Add(`{"reference":[""],"label":[""],"until":["2020-01-01T00"]}`)
	s := &Service{d: Deps{Records: someRecords{}, Clock: clock.System{}}}
	f.Fuzz(func(t *testing.T, body string) {
		var filters map[string][]string
		if json.Unmarshal([]byte(body), &filters) != nil {
			return
		}
		keep, err := referenceFilter(t.Context(), filters)
		if err == nil {
			for _, k := range keep {
				if _, err := k(Record{Name: "docker.io/library/busybox:latest"}); err != nil && !errdefs.IsInvalidArgument(err) {
					t.Errorf("class of %v", err)
				}
			}
		}
		if _, err := s.filter(t.Context(), filters, []string{"label", "label!", "dangling", "reference", "until"}); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("class of %v", err)
		}
		for _, v := range filters["until"] {
			_, _ = parseTime(v, time.Unix(0, 0))
		}
	})
}
