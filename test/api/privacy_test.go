package api

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What containers keep is nobody's business on the host: a local user who knows
// the paths (mount tables are public) reads no data through them, and runs no
// set-user-ID program of an image.
func TestOtherUsersCannotReachContainers(t *testing.T) {
	notOnTwin(t, "looks at our folders")
	d := daemon(t)
	id := up(d, "--name", "private", "-v", "secret:/data", "busybox", "sh", "-c", "echo x > /data/file; echo x > /file; sleep 1000")
	d.Eventually(settle, "the files are there", func() (bool, string) {
		r := d.DockerResult("exec", "private", "test", "-e", "/file")
		return r.Code == 0, r.String()
	})
	asNobody := func(path string) error {
		cmd := exec.Command("/bin/ls", "-d", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd.Run()
	}
	if err := asNobody(d.Root()); err != nil {
		t.Fatalf("the daemon's folder itself is out of reach, nothing is shown: %v", err)
	}
	for _, path := range []string{
		filepath.Join(format(d, "secret", "{{.Mountpoint}}"), "file"),
		filepath.Join(format(d, "private", "{{.GraphDriver.Data.UpperDir}}"), "file"),
		format(d, "private", "{{.GraphDriver.Data.MergedDir}}"),
		format(d, "private", "{{.LogPath}}"),
	} {
		if !strings.HasPrefix(path, d.Root()) {
			t.Errorf("%s is outside %s", path, d.Root())
		}
		if out, err := exec.Command("/bin/ls", "-d", path).CombinedOutput(); err != nil {
			t.Errorf("not even root finds it: %s", out)
		}
		if asNobody(path) == nil {
			t.Errorf("another user reaches %s", path)
		}
	}
	d.Docker("rm", "-f", id)
}
