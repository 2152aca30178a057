package testkit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const cleanLimit = 15 * time.Second

// state is what a daemon leaves in the system outside of its own files. Every
// item is a line that a reader can act on.
type state struct {
	items map[string][]string // kind → lines
}

func (s *state) add(kind string, lines ...string) {
	s.items[kind] = append(s.items[kind], lines...)
}

// beyond lists what s has that base has not.
func (s *state) beyond(base *state) []string {
	var out []string
	for _, kind := range []string{"process", "mount", "netns", "link", "nft", "cgroup"} {
		old := slices.Clone(base.items[kind])
		for _, line := range s.items[kind] {
			if i := slices.Index(old, line); i >= 0 {
				old = slices.Delete(old, i, i+1)
				continue
			}
			out = append(out, kind+": "+line)
		}
	}
	return out
}

// maxSpares is how many network namespaces the engine may keep ready for the next
// containers; more are a leak.
const maxSpares = 8

// dropSpares takes the engine's spare namespaces out, as long as they are few.
func dropSpares(lines []string) []string {
	isSpare := func(l string) bool { return strings.Contains(l, "/netns/spare-") }
	kept := slices.DeleteFunc(slices.Clone(lines), isSpare)
	if len(lines)-len(kept) > maxSpares {
		return lines
	}
	return kept
}

// dropStepsParents takes out the cgroups above those of build steps: they stay
// while the daemon lives, as empty as a folder.
func dropStepsParents(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasSuffix(l, "/buildkit") })
}

// look reads the present state from the kernel, not from the daemon.
func (d *Daemon) look() *state {
	s := &state{items: map[string][]string{}}
	s.add("mount", dropSpares(d.mounts())...)
	for _, p := range d.processes() {
		if p.pid != d.ns.pid && p.pid != d.Pid() && !d.ownHelper(p) {
			s.add("process", p.String())
		}
	}
	s.add("netns", dropSpares(d.netnsFiles())...)
	s.add("link", d.links()...)
	s.add("nft", d.rules()...)
	s.add("cgroup", dropStepsParents(d.cgroups())...)
	return s
}

// ownHelper tells processes that belong to a twin engine itself.
func (d *Daemon) ownHelper(p process) bool {
	return d.opts.Engine == Dockerd && strings.HasPrefix(p.cmdline, "containerd --config")
}

func (d *Daemon) mounts() []string {
	var out []string
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.ns.pid))
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], d.dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

func (d *Daemon) netnsFiles() []string {
	var out []string
	walk := d.Path(d.execRoot)
	_ = filepath.WalkDir(walk, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.Contains(p, "/netns") {
			out = append(out, strings.TrimPrefix(p, walk))
		}
		return nil
	})
	return out
}

func (d *Daemon) links() []string {
	b, err := d.ns.command("ip", "-o", "link").CombinedOutput()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
			out = append(out, name)
		}
	}
	return out
}

// rules is the nftables ruleset as unordered lines, without counters' values.
func (d *Daemon) rules() []string {
	b, err := d.ns.command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line != "}" {
			out = append(out, line)
		}
	}
	return out
}

func (d *Daemon) cgroups() []string {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + d.tag + "*/*")
	if err != nil {
		return []string{err.Error()}
	}
	unified, err := filepath.Glob("/sys/fs/cgroup/" + d.tag + "*/*")
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, p := range append(dirs, unified...) {
		if fi, err := os.Stat(p); err == nil && fi.IsDir() {
			out = append(out, p)
		}
	}
	return out
}

// Leftovers lists what is there now and was not when the daemon first started.
func (d *Daemon) Leftovers() []string {
	if d.base == nil {
		return nil
	}
	return d.look().beyond(d.base)
}

// Clean removes all containers, networks, volumes and images but the base
// images, and fails the test if anything of them is left in the system.
func (d *Daemon) Clean() {
	d.t.Helper()
	if !d.Running() {
		if err := d.TryStart(); err != nil {
			d.t.Errorf("start the daemon to clean up: %v\n%s", err, tail(d.Logs(), 40))
			return
		}
	}
	if err := d.removeAll(); err != nil {
		d.t.Errorf("clean up: %v", err)
	}
	if d.opts.IgnoreLeftovers || d.opts.Bare || d.opts.Engine != Holdfastd {
		return
	}
	var left []string
	_, ok := poll(cleanLimit, func() (bool, string) {
		left = d.Leftovers()
		return len(left) == 0, ""
	})
	if !ok {
		d.t.Errorf("left behind after everything was removed:\n  %s", strings.Join(left, "\n  "))
		// The next test shall not fail for this one.
		d.base = d.look()
	}
}

func (d *Daemon) removeAll() error {
	var containers []struct {
		ID    string `json:"Id"`
		State string
	}
	if err := d.getJSON("/containers/json?all=1", &containers); err != nil {
		return err
	}
	for _, c := range containers {
		if c.State == "paused" {
			_, _, _ = d.request(http.MethodPost, "/containers/"+c.ID+"/unpause", nil) // removal tells
		}
		if err := d.remove("/containers/" + c.ID + "?force=1&v=1"); err != nil {
			return err
		}
	}
	var networks []struct{ ID, Name string }
	if err := d.getJSON("/networks", &networks); err != nil {
		return err
	}
	for _, n := range networks {
		if n.Name == "bridge" || n.Name == "host" || n.Name == "none" {
			continue
		}
		if err := d.remove("/networks/" + n.ID); err != nil {
			return err
		}
	}
	var volumes struct{ Volumes []struct{ Name string } }
	if err := d.getJSON("/volumes", &volumes); err != nil {
		return err
	}
	for _, v := range volumes.Volumes {
		if err := d.remove("/volumes/" + v.Name + "?force=1"); err != nil {
			return err
		}
	}
	return d.removeImages()
}

func (d *Daemon) removeImages() error {
	var images []struct {
		ID       string `json:"Id"`
		RepoTags []string
	}
	if err := d.getJSON("/images/json", &images); err != nil {
		return err
	}
	for _, i := range images {
		names := slices.DeleteFunc(slices.Clone(i.RepoTags), func(s string) bool { return s == "<none>:<none>" })
		kept := false
		for _, n := range names {
			d.mu.Lock()
			base := d.images[strings.TrimSuffix(n, ":latest")]
			d.mu.Unlock()
			if base {
				kept = true
				continue
			}
			if err := d.remove("/images/" + n + "?force=1"); err != nil {
				return err
			}
		}
		if len(names) == 0 && !kept {
			if err := d.remove("/images/" + i.ID + "?force=1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove deletes a resource; one that is already gone, or on its way, is fine.
func (d *Daemon) remove(path string) error {
	code, b, err := d.request(http.MethodDelete, path, nil)
	if err != nil {
		return err
	}
	switch {
	case code < 300, code == http.StatusNotFound:
		return nil
	case code == http.StatusConflict && bytes.Contains(b, []byte("already in progress")):
		return nil
	}
	var m struct{ Message string }
	if json.Unmarshal(b, &m) != nil {
		m.Message = string(b)
	}
	return fmt.Errorf("DELETE %s: %d %s", path, code, m.Message)
}

// process is one process that belongs to a test daemon.
type process struct {
	pid     int
	cmdline string
}

func (p process) String() string { return strconv.Itoa(p.pid) + " " + p.cmdline }

// processes lists the holder, the daemon, its shims and its containers' processes.
func (d *Daemon) processes() []process { return processesOf(d.tag, d.ns.pid) }

// processesOf finds processes by three marks: the holder's mount namespace, the
// daemon's cgroup parent, and the daemon's folder on the command line.
func processesOf(tag string, holderPid int) []process {
	mnt := ""
	if holderPid > 0 {
		mnt, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holderPid)) // gone: no mark
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(cmdline) == 0 {
			continue // ended, a zombie or a kernel thread
		}
		text := string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)) // ended: no mark
		if (mnt != "" && ns == mnt) || inCgroup(pid, tag) || strings.Contains(text, tag+"/") && ourPrograms(text) {
			out = append(out, process{pid, text})
		}
	}
	return out
}

// ourPrograms keeps a client or a shell that merely names the folder apart from
// what a daemon started.
func ourPrograms(cmdline string) bool {
	name, _, _ := strings.Cut(cmdline, " ")
	switch filepath.Base(name) {
	case "holdfastd", "dockerd", "containerd", "containerd-shim-runc-v2", "containerd-shim", "runc", "holdfast-init", "docker-init", "docker-proxy":
		return true
	}
	return false
}

func inCgroup(pid int, tag string) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.Contains(sc.Text(), tag) {
			return true
		}
	}
	return false
}
