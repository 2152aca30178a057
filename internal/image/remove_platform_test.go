package image

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestOfPlatforms(t *testing.T) {
	d := func(s string) digest.Digest { return digest.FromString(s) }
	one := func(kind Kind, name, arch string) Manifest {
		return Manifest{Kind: kind, Complete: true, Descriptor: ocispec.Descriptor{Digest: d(name)}, Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	}
	about := Manifest{Kind: KindAttestation, For: d("arm"), Descriptor: ocispec.Descriptor{Digest: d("about")}, Content: []ocispec.Descriptor{{}}}
	absent := one(KindImage, "absent", "s390x")
	absent.Complete = false
	index := []Manifest{one(KindImage, "amd", "amd64"), one(KindImage, "arm", "arm64"), about, absent}
	for _, tc := range []struct {
		name  string
		all   []Manifest
		want  []string
		gone  []string
		fails string
	}{
		{"one of two, with what is said of it", index, []string{"arm64"}, []string{"arm", "about"}, ""},
		{"both", index, []string{"amd64", "arm64"}, []string{"amd", "arm", "about"}, ""},
		{"one that is not here", index, []string{"s390x"}, nil, "does not provide the specified platform (linux/s390x)"},
		{"one that never was", index, []string{"amd64", "riscv64"}, nil, "does not provide the specified platform (linux/riscv64)"},
		{"the only one", []Manifest{one(KindImage, "target", "amd64")}, []string{"amd64"}, nil, "remove the image itself"},
	} {
		var want []ocispec.Platform
		for _, arch := range tc.want {
			want = append(want, ocispec.Platform{OS: "linux", Architecture: arch})
		}
		got, err := ofPlatforms("i", Record{Name: "docker.io/library/i:1", Target: ocispec.Descriptor{Digest: d("target")}}, tc.all, want)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: got %v, %v", tc.name, got, err)
			}
			continue
		}
		if err != nil || len(got) != len(tc.gone) {
			t.Errorf("%s: got %v, %v", tc.name, got, err)
			continue
		}
		for i, name := range tc.gone {
			if got[i] != d(name) {
				t.Errorf("%s: got %v", tc.name, got)
			}
		}
	}
}
