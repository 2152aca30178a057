package host

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestReadKnowsThisMachine(t *testing.T) {
	f, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if f.Memory <= 0 || f.CPUs < 1 || f.Kernel == "" || f.Hostname == "" {
		t.Errorf("facts are missing: %+v", f)
	}
	if os.Getuid() == 0 && !slices.Contains(f.Capabilities, "CAP_CHOWN") {
		t.Errorf("root without CAP_CHOWN: %v", f.Capabilities)
	}
}

func TestReadCgroup(t *testing.T) {
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("v2", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "cgroup.controllers"), "cpuset cpu io memory pids\n")
		cg, err := readCgroup(dir, "/nonexistent")
		if err != nil || cg.Version != 2 || !cg.Controllers["io"] || !cg.Controllers["pids"] {
			t.Errorf("got %+v, %v", cg, err)
		}
	})
	t.Run("hybrid counts as v1", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "unified", "cgroup.controllers"), "\n")
		write(t, filepath.Join(dir, "memory", "memory.memsw.limit_in_bytes"), "0")
		proc := filepath.Join(dir, "cgroups")
		write(t, proc, "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t5\t1\t1\nhugetlb\t6\t1\t1\npids\t0\t1\t0\n")
		cg, err := readCgroup(dir, proc)
		if err != nil || cg.Version != 1 || !cg.Controllers["memory"] || !cg.SwapLimit {
			t.Errorf("got %+v, %v", cg, err)
		}
		if cg.Controllers["pids"] || cg.Controllers["hugetlb"] {
			t.Errorf("controllers that are off or not mounted were counted: %v", cg.Controllers)
		}
	})
}

func TestOSRelease(t *testing.T) {
	p := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(p, []byte("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, v := osRelease("/nonexistent", p); n != "Debian GNU/Linux 12 (bookworm)" || v != "12" {
		t.Errorf("got %q %q", n, v)
	}
	if n, _ := osRelease("/nonexistent"); n != "Linux" {
		t.Errorf("got %q", n)
	}
}
