package container

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/go-archive"
	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/container/fsview"
	"holdfast.dev/holdfast/internal/testkit"
)

// What PUT /containers/x/archive unpacks comes from a client, into a file system
// whose links are the container's.
func FuzzPutArchive(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root: a container's file system is entered")
	}
	f.Add(testkit.Layer{"a/b": {Body: "x"}, "etc/link": {Link: "/../../../victim"}}.Tar(), "/")
	f.Add(testkit.Layer{"victim": {Body: "x"}, "../victim": {Body: "x"}, "../../../../../victim": {Body: "y"}}.Tar(), "/out")
	f.Add(testkit.Layer{"l": {Link: "/"}, "l/x/victim": {Body: "x"}}.Tar(), "/up/")
	f.Add([]byte("no tar"), "/etc/passwd")
	f.Fuzz(func(t *testing.T, tar []byte, path string) {
		top := t.TempDir()
		root, victim := filepath.Join(top, "root"), filepath.Join(top, "victim")
		err := errors.Join(
			os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.WriteFile(victim, []byte("sound"), 0o600),
			os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("u:x:1:1:::\n"), 0o600),
			os.Symlink(top, filepath.Join(root, "out")), os.Symlink("..", filepath.Join(root, "up")),
		)
		if err != nil {
			t.Fatal(err)
		}
		options, cleanup, err := archive.WithProcSelfFD(&archive.TarOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		plain, err := compression.DecompressStream(bytes.NewReader(tar))
		if err != nil {
			return
		}
		defer plain.Close()
		v, err := fsview.Assemble(root, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &Record{Config: &container.Config{User: "u"}, HostConfig: &container.HostConfig{}}
		_ = extract(v, r, path, true, plain, options) // refused or not
		v.Close()
		got, err := os.ReadFile(victim)
		entries, derr := os.ReadDir(top)
		if err != nil || derr != nil || string(got) != "sound" || len(entries) != 2 {
			t.Errorf("outside is %q, %v; there are %v, %v", got, err, entries, derr)
		}
	})
}
