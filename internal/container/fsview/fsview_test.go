package fsview

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: enters mount namespaces")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}

func expect(t *testing.T, v *View, path, want string) {
	t.Helper()
	err := v.Do(func() error {
		got, err := read(path)
		if err == nil && got != want {
			err = errors.New("got " + got)
		}
		return err
	})
	if err != nil {
		t.Errorf("%s: %v, want %s", path, err, want)
	}
}

func TestAssemble(t *testing.T) {
	needsRoot(t)
	root, vol, secret := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "secret")
	write(t, secret, "of the host")
	write(t, root+"/etc/name", "container")
	write(t, root+"/inside", "root")
	write(t, vol+"/data", "volume")
	write(t, vol+"/deep/er", "sub")
	for link, to := range map[string]string{
		"/absolute": "/inside", "/up": "../../../../../inside", "/escape": secret, "/var": "etc",
		"/mnt": "/real", // a mount point behind a link, as /var/run is
	} {
		if err := os.Symlink(to, root+link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(root+"/real", 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := Assemble(root, []Bind{
		{Source: vol, Target: "/mnt/vol"},
		{Source: vol, Target: "/ro", ReadOnly: true},
		{Source: vol + "/data", Target: "/new/file"},
		{Source: vol + "/deep", Target: "/escape-dir/../../x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/etc/name": "container", "/absolute": "root", "/up": "root", "/../../inside": "root", "/var/name": "container",
		"/mnt/vol/data": "volume", "/real/vol/data": "volume", "/ro/data": "volume", "/new/file": "volume", "/x/er": "sub",
	} {
		expect(t, v, path, want)
	}
	err = v.Do(func() error { _, err := read("/escape"); return err })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("link to the host's file: %v", err)
	}
	err = v.Do(func() error { return os.WriteFile("/ro/x", nil, 0o600) })
	if !errors.Is(err, syscall.EROFS) {
		t.Errorf("write to read-only mount: %v", err)
	}
	if err := v.Do(func() error { return os.WriteFile("/mnt/vol/written", []byte("y"), 0o600) }); err != nil {
		t.Error(err)
	}
	v.Close()
	if got, err := read(vol + "/written"); err != nil || got != "y" {
		t.Errorf("volume has %q, %v", got, err)
	}
	mounts, err := read("/proc/self/mountinfo")
	if err != nil || strings.Contains(mounts, root) {
		t.Errorf("mounts are left on the host: %v", err)
	}
	if wd, err := os.Getwd(); err != nil || strings.HasPrefix(wd, root) {
		t.Errorf("the process itself was moved: %s %v", wd, err)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
}

func TestAssembleFails(t *testing.T) {
	needsRoot(t)
	if _, err := Assemble(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Assemble(t.TempDir(), []Bind{{Source: "/nowhere/at/all", Target: "/x"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Links that change while a view is used lead nowhere but into the container.
func TestSwappedLinks(t *testing.T) {
	needsRoot(t)
	root, host := t.TempDir(), t.TempDir()
	write(t, host+"/f", "host")
	write(t, root+host+"/f", "container") // the same path inside
	write(t, root+"/a/f", "container")
	v, err := Assemble(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			target := []string{"/a", host}[i%2]
			_ = os.Remove(root + "/l.new")
			_ = os.Symlink(target, root+"/l.new")
			_ = os.Rename(root+"/l.new", root+"/l")
		}
	}()
	for range 2000 {
		err := v.Do(func() error {
			got, err := read("/l/f")
			if err == nil && got != "container" {
				return errors.New("read the host's file")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
}

func TestEnter(t *testing.T) {
	needsRoot(t)
	tmp := t.TempDir()
	cmd := exec.Command("sh", "-c", "mount -t tmpfs none "+tmp+" && echo inside > "+tmp+"/f && echo ready && exec cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	v, err := Enter(cmd.Process.Pid, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	expect(t, v, tmp+"/f", "inside\n")
	v.Close()
	if _, err := os.Stat(tmp + "/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on the host: %v", err)
	}
	gone := errors.New("gone")
	if _, err := Enter(cmd.Process.Pid, func() error { return gone }); !errors.Is(err, gone) {
		t.Errorf("refused: %v", err)
	}
	if _, err := Enter(os.Getpid(), func() error { return nil }); err == nil {
		t.Error("entered the daemon's own namespace")
	}
}
