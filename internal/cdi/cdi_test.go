package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const file = `{"cdiVersion":"0.6.0","kind":"holdfast.test/thing","devices":[
 {"name":"a","containerEdits":{"env":["THING=a"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/zero"}]}},
 {"name":"b","containerEdits":{"env":["THING=b"]}}]}`

func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	r := New([]string{dir, filepath.Join(dir, "absent")})
	if got := r.Names(); len(got) != 0 {
		t.Errorf("devices of an empty folder: %q", got)
	}
	// Files that come later count, and one that is broken harms no other.
	for name, body := range map[string]string{"thing.json": file, "broken.json": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Names(); !slices.Equal(got, []string{"holdfast.test/thing=a", "holdfast.test/thing=b"}) {
		t.Errorf("devices: %q", got)
	}
	s := &specs.Spec{Process: &specs.Process{}}
	if err := r.Inject(s, []string{"holdfast.test/thing=a"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "THING=a") || len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Major != 1 || s.Linux.Devices[0].Minor != 5 {
		t.Errorf("spec: %+v %+v", s.Process.Env, s.Linux)
	}
	if len(s.Linux.Resources.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
		t.Errorf("device cgroup: %+v", s.Linux.Resources)
	}
	if err := r.Inject(s, []string{"holdfast.test/thing=z"}); err == nil || !strings.Contains(err.Error(), "unresolvable CDI devices holdfast.test/thing=z") {
		t.Errorf("unknown device: %v", err)
	}
	if none := New(nil); len(none.Names()) != 0 || none.Inject(s, []string{"holdfast.test/thing=a"}) == nil {
		t.Error("without folders there are devices")
	}
}
