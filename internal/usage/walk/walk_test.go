package walk

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, n int) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, make([]byte, n), 0o644))
}

// du is the same by another program.
func du(t *testing.T, dir string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-sx", "-B1", dir).Output()
	must(t, err)
	n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	must(t, err)
	return n
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/b/one", 5000)
	write(t, dir+"/a/two", 1)
	must(t, os.Link(dir+"/a/two", dir+"/a/again"))
	must(t, os.Symlink("/etc", dir+"/out"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	must(t, f.Truncate(1<<30))
	must(t, f.Close())
	for i := range 700 { // more than one batch of names
		write(t, dir+"/many/"+strconv.Itoa(i), 10)
	}
	for _, gentle := range []bool{false, true} {
		got, worked, err := Dir(t.Context(), dir, gentle)
		must(t, err)
		if got.Files != 705 || got.Inodes != 705+4 || got.Lengths != 5000+1+4+1<<30+7000 || worked <= 0 {
			t.Errorf("gentle %v: %+v, %s", gentle, got, worked)
		}
		if want := du(t, dir); got.Blocks != want {
			t.Errorf("gentle %v: %d bytes in blocks, du says %d", gentle, got.Blocks, want)
		}
	}
}

func TestOtherFileSystemsStayOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("requires: root")
	}
	dir := t.TempDir()
	write(t, dir+"/mine", 10)
	must(t, os.Mkdir(dir+"/theirs", 0o755))
	must(t, unix.Mount("tmpfs", dir+"/theirs", "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(dir+"/theirs", 0)) }()
	write(t, dir+"/theirs/f", 1000)
	got, _, err := Dir(t.Context(), dir, false)
	if err != nil || got.Lengths != 10 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestHostileDepth(t *testing.T) {
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	for range maxDepth + 10 { // deeper than a path can say
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	if _, _, err := Dir(t.Context(), root, false); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("got %v", err)
	}
	must(t, exec.Command("rm", "-rf", root).Run())
}

func TestGoneAndGivenUp(t *testing.T) {
	if _, _, err := Dir(t.Context(), t.TempDir()+"/no", true); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	for i := range 200 {
		write(t, dir+"/"+strconv.Itoa(i), 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Dir(ctx, dir, true); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A gentle walk works a tenth of the time at most, and its thread has the lowest
// priorities.
func TestGentle(t *testing.T) {
	w := walker{ctx: t.Context(), gentle: true, began: time.Now().Add(-20 * time.Millisecond), steps: 63}
	before := time.Now()
	must(t, w.breathe())
	if rested := time.Since(before); rested < 10*20*time.Millisecond || w.worked < 20*time.Millisecond {
		t.Errorf("worked %s, rested %s", w.worked, rested)
	}
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := lowPriority(); err != nil {
			done <- err
			return
		}
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil || 20-nice != lowestNice {
			done <- errors.New("nice is " + strconv.Itoa(20-nice))
		}
		prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, 0, 0)
		if errno != 0 || prio>>ioprioClassShift != ioprioClassIdle {
			done <- errors.New("I/O priority is " + strconv.Itoa(int(prio)))
		}
	}()
	for err := range done {
		t.Error(err)
	}
}

// Every file is in one part, links between parts too, and the sum is the whole.
func TestSplit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/one", 5000)
	write(t, dir+"/a/inner/two", 9000)
	write(t, dir+"/b/three", 100)
	write(t, dir+"/b/deep/er/four", 70_000)
	must(t, os.Link(dir+"/b/three", dir+"/a/same"))
	got, err := Split(t.Context(), dir, map[string]string{
		dir + "/a": "A", dir + "/a/inner": "inner", dir + "/b/deep/er/four": "file", dir + "/none/such": "none",
	})
	must(t, err)
	var files, blocks int64
	for _, f := range got {
		files += f.Files
		blocks += f.Blocks
	}
	if whole := du(t, dir); files != 4 || blocks != whole {
		t.Errorf("%d files, %d bytes of %d: %+v", files, blocks, whole, got)
	}
	if got["inner"].Lengths != 9000 || got["inner"].Inodes != 2 || got["file"].Lengths != 70_000 || got["file"].Inodes != 1 {
		t.Errorf("%+v", got)
	}
	if n := got["A"].Lengths + got[""].Lengths; n != 5100 || got["A"].Files == 0 || got[""].Inodes < 4 {
		t.Errorf("%+v", got)
	}
}
