package dash

import (
	"fmt"
	"strings"
	"testing"
)

// fakeLayer is a layer by path: "f" is a file, "d" a folder, "D" an opaque one, "x"
// a whiteout, anything else where a link leads.
type fakeLayer map[string]string

func (l fakeLayer) Look(p string) (LayerEntry, error) {
	switch e := l[p]; e {
	case "":
		return LayerEntry{}, nil
	case "f":
		return LayerEntry{What: File, Bytes: 1}, nil
	case "d", "D":
		return LayerEntry{What: Folder, Opaque: e == "D"}, nil
	case "x":
		return LayerEntry{What: Whiteout}, nil
	default:
		return LayerEntry{What: Link, Target: e}, nil
	}
}

func TestSearchSaysWhichLayer(t *testing.T) {
	layers := []UnionLayer{
		{Files: fakeLayer{"/etc": "d", "/etc/new": "f", "/etc/gone": "x", "/data": "D", "/data/b": "f", "/tmp": "f"}},
		{Files: fakeLayer{"/etc": "d", "/etc/conf": "f", "/data": "d", "/data/a": "f", "/usr": "d", "/usr/bin": "d", "/usr/bin/tool": "f", "/opt": "x"}},
		{Files: fakeLayer{
			"/etc": "d", "/etc/conf": "f", "/etc/gone": "f", "/data": "d", "/data/a": "f", "/bin": "usr/bin", "/usr": "d", "/usr/bin": "d",
			"/usr/bin/sh": "f", "/tmp": "d", "/tmp/x": "f", "/abs": "/bin", "/loop": "loop", "/opt": "d", "/opt/z": "f",
		}},
	}
	for path, want := range map[string]string{
		"/etc/new":      "1 seen",
		"/etc/conf":     "2 seen, 3 hidden by 2",
		"/etc/gone":     "1 whiteout, 3 hidden by 1",
		"/etc":          "1 seen, 2 seen, 3 seen",       // folders add up
		"/data/a":       "2 hidden by 1, 3 hidden by 1", // the upper folder is opaque
		"/data":         "1 seen, 2 hidden by 1, 3 hidden by 1",
		"/tmp/x":        "3 hidden by 1", // its folder is a file above
		"/opt/z":        "3 hidden by 2", // its folder was removed
		"/bin/tool":     "2 seen",        // by the link in the lowest layer
		"/abs/sh":       "3 seen",
		"bin/../bin/sh": "3 seen",
		"/bin":          "3 seen", // the link itself
		"/nowhere":      "",
		"/loop/x":       "",
	} {
		got, _, err := search(layers, path)
		if err != nil {
			t.Fatal(err)
		}
		var say []string
		for i, f := range got {
			switch {
			case f.What == Whiteout:
				say = append(say, fmt.Sprintf("%d whiteout", i+1))
			case f.Seen:
				say = append(say, fmt.Sprintf("%d seen", i+1))
			case f.What != Nothing:
				say = append(say, fmt.Sprintf("%d hidden by %d", i+1, f.HiddenBy))
			}
		}
		if s := strings.Join(say, ", "); s != want {
			t.Errorf("%s: %q, want %q", path, s, want)
		}
	}
	if _, at, err := search(layers, "/abs/sh"); err != nil || at != "/usr/bin/sh" {
		t.Errorf("%s, %v", at, err)
	}
}
