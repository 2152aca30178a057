package image

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestStatements(t *testing.T) {
	d := func(s string) digest.Digest { return digest.FromString(s) }
	about := func(manifest string, types ...string) Manifest {
		m := Manifest{Kind: KindAttestation, For: d(manifest)}
		for _, p := range types {
			m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: statementType, Digest: d(manifest + p), Annotations: map[string]string{predicateType: p}})
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: "application/octet-stream"})
		return m
	}
	mine := Manifest{Kind: KindImage, Descriptor: ocispec.Descriptor{Digest: d("mine")}}
	all := []Manifest{mine, about("other", "slsa"), about("mine", "slsa", "spdx"), {Kind: KindImage, For: d("mine")}}
	for _, tc := range []struct{ types, want string }{{"", "slsa spdx"}, {"spdx", "spdx"}, {"none", ""}, {"slsa spdx", "slsa spdx"}} {
		var got []string
		for _, l := range statements(all, &mine, strings.Fields(tc.types)) {
			got = append(got, l.Annotations[predicateType])
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%q: got %q", tc.types, got)
		}
	}
}
