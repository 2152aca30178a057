package buildkit

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"

	"holdfast.dev/holdfast/internal/build"
)

// A build context is a client's tar file: nothing of it lands outside its folder,
// and where it is refused no folder is left.
func FuzzContext(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root: the context is unpacked in a namespace of its own")
	}
	whole := func(hs ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(whole(tar.Header{Name: "Dockerfile", Mode: 0o644}, tar.Header{Name: ".dockerignore", Mode: 0o644}), "Dockerfile")
	f.Add(whole(tar.Header{Name: "../../victim", Mode: 0o644}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/victim", Mode: 0o644}), "l/victim")
	f.Add(whole(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../victim"}, tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), "../x")
	f.Add([]byte("no tar"), "")
	top := f.TempDir()
	b := &Builder{cfg: Config{Root: filepath.Join(top, "root")}}
	victim := filepath.Join(top, "victim")
	if err := errors.Join(os.Mkdir(b.cfg.Root, 0o755), os.WriteFile(victim, []byte("sound"), 0o600)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, dockerfile string) {
		dir, err := b.unpack(bytes.NewReader(body))
		if err == nil {
			opt := bkclient.SolveOpt{FrontendAttrs: map[string]string{}}
			if err := mountContext(&opt, build.Request{Dockerfile: dockerfile}, dir); err == nil && !filepath.IsLocal(opt.FrontendAttrs["filename"]) {
				t.Errorf("Dockerfile %q", opt.FrontendAttrs["filename"])
			}
			err = os.RemoveAll(dir)
		} else if !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
			err = nil
		} else {
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		if err := filepath.WalkDir(top, func(p string, _ fs.DirEntry, err error) error { found = append(found, p); return err }); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(victim); err != nil || string(got) != "sound" || len(found) != 3 {
			t.Errorf("outside is %q, %v; there are %q", got, err, found)
		}
	})
}

func FuzzSolveOptions(f *testing.F) {
	f.Add(`{"Tags":["a","b:c"],"Target":"x","Network":"host","ExtraHosts":["a:1.2.3.4"],"Args":{"A":null},"Ulimits":[{"Name":"nofile"}],"Outputs":[{"Type":"moby"}],"CacheFrom":["x"]}`)
	f.Add(`{"Ulimits":[null],"Outputs":[{"Type":"image","Attrs":null}],"Tags":["A"]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var r build.Request
		if json.Unmarshal([]byte(body), &r) != nil {
			return
		}
		if _, _, err := solveOpt(r); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
		}
	})
}
