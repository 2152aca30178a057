package daemon

import (
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/usage"
)

func TestDiskWarnings(t *testing.T) {
	const gib = 1 << 30
	at := usage.Policy{HighWater: usage.Mark{Percent: 80}}
	for _, c := range []struct {
		name  string
		disk  usage.Disk
		p     usage.Policy
		dtype bool
		want  string
	}{
		{"half full", usage.Disk{Total: 100 * gib, Used: 50 * gib, Free: 50 * gib, Inodes: 100, InodesFree: 50}, usage.Policy{}, true, ""},
		{"no inode limit", usage.Disk{Total: 100 * gib, Used: 50 * gib, Free: 50 * gib}, usage.Policy{}, true, ""},
		{"full", usage.Disk{Total: 100 * gib, Used: 92 * gib, Free: 8 * gib}, usage.Policy{}, true, "is 92.0% full (8.59GB free)"},
		{"above the mark", usage.Disk{Total: 100 * gib, Used: 81 * gib, Free: 19 * gib}, at, true, "above the high-water mark of 80%"},
		{"below the mark", usage.Disk{Total: 100 * gib, Used: 79 * gib, Free: 21 * gib}, at, true, ""},
		{"inodes", usage.Disk{Total: 100 * gib, Used: gib, Free: 99 * gib, Inodes: 1000, InodesFree: 10}, usage.Policy{}, true, "few inodes left (10)"},
		{"no d_type", usage.Disk{Total: 100 * gib, Used: gib, Free: 99 * gib}, usage.Policy{}, false, "(d_type)"},
	} {
		got := strings.Join(diskWarnings("/r", c.disk, c.p, c.dtype), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestRepository(t *testing.T) {
	for name, want := range map[string]string{
		"busybox:latest": "busybox", "host:5000/a/b:1": "host:5000/a/b", "host:5000/a": "host:5000/a", "sha256:abc": "", "a@sha256:abc": "a",
	} {
		if got := repository(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
