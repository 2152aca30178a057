package image

import (
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestDescends(t *testing.T) {
	img := func(layers, history string) *dockerspec.DockerOCIImage {
		var out dockerspec.DockerOCIImage
		for _, l := range layers {
			out.RootFS.DiffIDs = append(out.RootFS.DiffIDs, digest.FromString(string(l)))
		}
		for _, h := range history {
			out.History = append(out.History, ocispec.History{CreatedBy: string(h), EmptyLayer: h >= 'x'})
		}
		return &out
	}
	for _, tc := range []struct {
		name        string
		image, base *dockerspec.DockerOCIImage
		want        bool
	}{
		{"a layer more", img("ab", "ab"), img("a", "a"), true},
		{"a label more", img("a", "ax"), img("a", "a"), true},
		{"itself", img("a", "a"), img("a", "a"), false},
		{"its own base", img("a", "a"), img("ab", "ab"), false},
		{"another first layer", img("ba", "ba"), img("a", "a"), false},
		{"same layers made otherwise", img("ab", "pq"), img("a", "a"), false},
		{"no history at all", img("ab", ""), img("a", ""), true},
		{"base tells its history, image does not", img("ab", ""), img("a", "a"), false},
		{"everything from nothing", img("a", "a"), img("", ""), false},
	} {
		if got := descends(tc.image, tc.base); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}
