package preflight

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func run(t *testing.T, dir string) Report {
	t.Helper()
	r, err := Run(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return r
}

func of(t *testing.T, r Report, db string) Verdict {
	t.Helper()
	for _, v := range r.Verdicts {
		if v.For == db {
			return v
		}
	}
	t.Fatalf("no verdict for %s in %+v", db, r.Verdicts)
	return Verdict{}
}

func TestAGoodFileSystem(t *testing.T) {
	r := run(t, t.TempDir())
	for _, p := range r.Probes {
		if p.Result != Pass && (p.Result != Unknown || os.Geteuid() == 0) {
			t.Errorf("%s: %s %s", p.Name, p.Result, p.Detail)
		}
	}
	if r.FsyncTime <= 0 || r.FreeBytes == 0 {
		t.Errorf("got %+v", r)
	}
	if r.InMemory {
		t.Skipf("the temporary folder is a %s", r.FSType)
	}
	for _, v := range r.Verdicts {
		if v.Level == Unsafe || v.Level == Warn {
			t.Errorf("%s: %s %s", v.For, v.Level, v.Text)
		}
	}
}

func mount(t *testing.T, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("mount %v: %v: %s", args, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func TestMemoryIsNoPlaceForData(t *testing.T) {
	r := run(t, mount(t, "-t", "tmpfs", "tmpfs"))
	v := of(t, r, "postgres")
	if v.Level != Unsafe || !strings.Contains(v.Text, "gone with the next reboot") {
		t.Errorf("got %+v", v)
	}
}

func TestAFileSystemWithoutOwnersAndModes(t *testing.T) {
	r := run(t, share(t))
	for _, name := range []string{owner, mode, hardLink, symLink} {
		if p := r.result(name); p.Result != Fail {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, name := range []string{fsyncFile, renameOpen} {
		if p := r.result(name); p.Result != Pass {
			t.Errorf("%s: %+v", name, p)
		}
	}
	v := of(t, r, "postgres")
	if v.Level != Unsafe || !strings.Contains(v.Text, "initdb will fail") || !strings.Contains(v.Text, "Azure Files") {
		t.Errorf("got %+v", v)
	}
	if v := of(t, r, "redis"); v.Level == Unsafe {
		t.Errorf("redis can live there: %+v", v)
	}
}

func TestAFileSystemThatHangsCostsTheLimitOnly(t *testing.T) {
	hang := make(chan struct{})
	dir := hangingShare(t, hang)
	t.Cleanup(func() { close(hang) }) // before the share is unmounted
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, dir); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("got %v", err)
	}
}

func TestAReadOnlyDirectoryIsAnError(t *testing.T) {
	dir := mount(t, "-t", "tmpfs", "-o", "ro", "tmpfs")
	if _, err := Run(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("got %v", err)
	}
	if _, err := Run(t.Context(), filepath.Join(dir, "nosuch")); err == nil {
		t.Error("a directory that is not there was tried")
	}
}

func TestWhatACutOffCheckLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, workPrefix+"old"), filepath.Join(dir, workPrefix+"young")
	for _, d := range []string{old, young} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), dir, "generic"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old folder is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a check that may be running lost its folder")
	}
}

func TestVerdicts(t *testing.T) {
	base := func(fail ...string) *Report {
		r := &Report{FSType: "ext4", FreeBytes: 1 << 40, FreeInodes: 1 << 20, FsyncTime: time.Millisecond}
		for _, p := range probes {
			res := Probe{Name: p.name, Result: Pass}
			for _, f := range fail {
				if f == p.name {
					res = Probe{Name: p.name, Result: Fail, Detail: "detail of " + f}
				}
			}
			r.Probes = append(r.Probes, res)
		}
		return r
	}
	slow := base()
	slow.FsyncTime = 30 * time.Millisecond
	full := base()
	full.FreeBytes = 10 << 20
	inodes := base()
	inodes.FreeInodes = 3
	for _, c := range []struct {
		what, db string
		r        *Report
		level    Level
		text     string
	}{
		{"all is well", "postgres", base(), Safe, "about 1ms"},
		{"no chmod", "postgres", base(mode), Unsafe, "initdb will fail: the data directory must be 0700"},
		{"no hard links", "postgres", base(hardLink), Warn, "detail of hard-link"},
		{"no hard links are nothing to redis", "redis", base(hardLink), Safe, ""},
		{"locks that don't hold", "sqlite", base(lockFcntl), Unsafe, "two writers corrupt"},
		{"no flock", "etcd", base(lockFlock), Unsafe, "two members"},
		{"no direct I/O", "mariadb", base(directIO), Warn, "O_DIRECT"},
		{"a slow disk", "etcd", slow, Slow, "30ms"},
		{"a full disk", "generic", full, Warn, "10 MiB"},
		{"no inodes", "generic", inodes, Warn, "3 inodes"},
	} {
		v := judge(c.r, []string{c.db})[0]
		if v.Level != c.level || !strings.Contains(v.Text, c.text) {
			t.Errorf("%s: got %s %q", c.what, v.Level, v.Text)
		}
	}
	if got := len(judge(base(), nil)); got != len(Databases()) {
		t.Errorf("asked for none in particular: %d verdicts", got)
	}
}
