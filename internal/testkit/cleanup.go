package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix  = "hft-" // short: socket paths below it end at 107 bytes
	holderFile = "holder.pid"
)

// cleanup ends the daemon for good: artifacts if the test failed, the leftover
// check, a clean stop, and then everything goes by force.
func (d *Daemon) cleanup() {
	d.t.Helper()
	if d.t.Failed() {
		d.keepArtifacts()
	}
	if d.base != nil && !d.opts.Bare {
		d.Clean()
	}
	d.Stop()
	if !d.opts.IgnoreLeftovers && d.opts.Engine == Holdfastd && !d.opts.Bare {
		for _, p := range d.processes() {
			if p.pid != d.ns.pid {
				d.t.Errorf("process still there after the daemon's clean stop: %s", p)
			}
		}
	}
	if err := reap(d.dir, d.tag, d.ns.pid); err != nil {
		d.t.Errorf("remove the test daemon: %v", err)
	}
	_ = d.ns.cmd.Wait() // killed by reap
}

// reap kills all processes of a test daemon and removes its cgroups and files.
// Its mounts go with its mount namespace.
func reap(dir, tag string, holderPid int) error {
	if err := killAll(tag, holderPid, true); err != nil {
		return err
	}
	return errors.Join(removeCgroups(tag), removeTree(dir))
}

// killAll kills the processes of a test daemon, frozen ones too, and its
// namespaces' holder if holderToo says so.
func killAll(tag string, holderPid int, holderToo bool) error {
	last, ok := poll(10*time.Second, func() (bool, string) {
		ps := processesOf(tag, holderPid)
		var left []string
		// The holder goes last: its namespace is how the others are found.
		for _, p := range slices.Backward(ps) {
			if p.pid == holderPid && (!holderToo || len(ps) > 1) {
				continue
			}
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err == nil {
				left = append(left, p.String())
			}
		}
		thaw(tag)
		return len(left) == 0, strings.Join(left, "\n")
	})
	if !ok {
		return fmt.Errorf("processes do not end:\n%s", last)
	}
	return nil
}

// thaw lets paused containers run on: under cgroup v1 a frozen process does not
// even die.
func thaw(tag string) {
	for glob, value := range map[string]string{
		"/sys/fs/cgroup/freezer/" + tag + "*/*/freezer.state": "THAWED",
		"/sys/fs/cgroup/" + tag + "*/*/cgroup.freeze":         "0",
	} {
		files, _ := filepath.Glob(glob) // the pattern is good
		for _, f := range files {
			_ = os.WriteFile(f, []byte(value), 0) // gone by now, or killAll tells
		}
	}
}

func removeCgroups(tag string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + tag + "*", "/sys/fs/cgroup/*/" + tag + "*"} {
		tops, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, top := range tops {
			last, ok := poll(5*time.Second, func() (bool, string) {
				err := removeCgroup(top)
				return err == nil, fmt.Sprint(err)
			})
			if !ok {
				errs = append(errs, errors.New(last))
			}
		}
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// removeTree removes the files, but only where nothing is mounted below: an
// erased bind mount would be someone's data.
func removeTree(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return os.RemoveAll(dir)
}

var ownerOf = regexp.MustCompile("^" + dirPrefix + `(\d+)-[0-9a-f]+$`)

// sweep removes what a crashed test binary left.
func sweep(t TB) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	for _, dir := range dirs {
		tag := filepath.Base(dir)
		m := ownerOf.FindStringSubmatch(tag)
		if m == nil {
			continue
		}
		owner, err := strconv.Atoi(m[1])
		if err != nil || owner == os.Getpid() || syscall.Kill(owner, 0) == nil {
			continue // alive, so its tests clean up themselves
		}
		if err := reap(dir, tag, livingHolder(dir)); err != nil {
			t.Logf("sweep %s: %v", dir, err)
		}
	}
}

// livingHolder is the pid of a left-over namespace holder, or 0 if that pid is
// not one any more.
func livingHolder(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, holderFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.HasPrefix(string(cmdline), "sleep\x00infinity") {
		return 0
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil || ns == own {
		return 0
	}
	return pid
}

// dumpGoroutines makes the daemon write all its stacks to its log.
func (d *Daemon) dumpGoroutines() {
	pid := d.Pid()
	if pid == 0 || !d.Running() {
		return
	}
	before := len(d.Logs())
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		d.t.Logf("ask for goroutines: %v", err)
		return
	}
	if last, ok := poll(3*time.Second, func() (bool, string) {
		l := d.Logs()
		return strings.Contains(l[before:], "goroutine "), "no stacks in the log"
	}); !ok {
		d.t.Logf("ask for goroutines: %s", last)
	}
}

// ArtifactDir is where a test keeps what explains it.
func ArtifactDir(t TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/ :\\\"'", r) {
			return '_'
		}
		return r
	}, t.Name())
	dir := filepath.Join(RepoRoot(), "test", "artifacts", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Errorf("make artifact folder: %v", err)
	}
	return dir
}

func (d *Daemon) keepArtifacts() {
	d.t.Helper()
	d.dumpGoroutines()
	dir := ArtifactDir(d.t)
	keep := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			d.t.Logf("keep %s: %v", name, err)
		}
	}
	keep("daemon.log", d.Logs())
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.ns.pid))
	keep("mountinfo", fmt.Sprintf("%s\n%v", b, err))
	for name, argv := range map[string][]string{
		"nft":   {"nft", "list", "ruleset"},
		"links": {"ip", "-d", "addr"},
		"files": {"find", d.root, d.execRoot, "-maxdepth", "4"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		cmd := d.ns.command(argv[0], argv[1:]...)
		out, err := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...).CombinedOutput()
		cancel()
		keep(name, fmt.Sprintf("%s\n%v", out, err))
	}
	var ps []string
	for _, p := range d.processes() {
		ps = append(ps, p.String())
	}
	keep("processes", strings.Join(ps, "\n"))
	d.t.Logf("artifacts: %s", dir)
}

func tail(s string, lines int) string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(l[max(0, len(l)-lines):], "\n")
}
