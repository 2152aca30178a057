package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/dash"
)

// A layer is looked into as what it is on the disk, and nothing outside is.
func TestLayerDirLooksWithinTheLayer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes whiteouts: needs root")
	}
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer")
	for _, d := range []string{"etc", "opaque"} {
		if err := os.MkdirAll(filepath.Join(layer, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{"secret": "x", "layer/etc/conf": "four"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"out": "..", "abs": dir, "self": "etc"} {
		if err := os.Symlink(target, filepath.Join(layer, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(layer, "gone"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(layer, "opaque"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]dash.LayerEntry{
		"/":                            {What: dash.Folder},
		"/etc":                         {What: dash.Folder},
		"/opaque":                      {What: dash.Folder, Opaque: true},
		"/etc/conf":                    {What: dash.File, Bytes: 4},
		"/gone":                        {What: dash.Whiteout},
		"/self":                        {What: dash.Link, Target: "etc"},
		"/self/conf":                   {}, // what is behind a link is for the search to find
		"/out/secret":                  {},
		"/abs/secret":                  {},
		"/../secret":                   {},
		"/etc/conf/sub":                {},
		"/a\x00b":                      {},
		"/" + strings.Repeat("x", 300): {},
	} {
		got, err := layerDir(layer).Look(path)
		if got.What != dash.File {
			got.Bytes = 0 // a folder's and a link's mean nothing
		}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", path, got, err, want)
		}
	}
}
