package image

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestOldBase(t *testing.T) {
	d := func(s string) digest.Digest { return digest.FromString(s) }
	layers := []digest.Digest{d("debian-old"), d("jdk-old"), d("app")}
	debian := Move{Name: "debian", ImageID: d("debian image").String(), Chain: d("debian-old")}
	jdk := Move{Name: "jdk", ImageID: d("jdk image").String(), Chain: d("jdk-old")}
	now := map[string][]digest.Digest{"debian": {d("debian-new")}, "jdk": {d("debian-new"), d("jdk-new")}}
	for _, c := range []struct {
		what  string
		image digest.Digest
		moves []Move
		now   map[string][]digest.Digest
		want  string
	}{
		{"no move", d("app image"), nil, now, ""},
		{"the base moved", d("app image"), []Move{debian}, now, "debian"},
		{"the topmost counts", d("app image"), []Move{jdk, debian}, now, "jdk"},
		{"whatever the order", d("app image"), []Move{debian, jdk}, now, "jdk"},
		{"the name is gone", d("app image"), []Move{debian}, nil, ""},
		{"only the config is new", d("app image"), []Move{debian}, map[string][]digest.Digest{"debian": {d("debian-old")}}, ""},
		{"another base's layers", d("app image"), []Move{{Name: "alpine", Chain: d("alpine")}}, map[string][]digest.Digest{"alpine": {d("x")}}, ""},
		{"the base itself", d("debian image"), []Move{debian}, now, ""},
	} {
		got := oldBase(c.image, layers, c.moves, func(m Move) []digest.Digest { return c.now[m.Name] })
		name := ""
		if got != nil {
			name = got.Name
		}
		if name != c.want {
			t.Errorf("%s: got %q, want %q", c.what, name, c.want)
		}
	}
}
