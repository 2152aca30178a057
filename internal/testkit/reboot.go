package testkit

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// PowerLoss ends everything of the daemon's at once, as a machine that loses
// power does: processes, mounts, links, rules and run-time files are gone, the
// root stays. It does not start the daemon again. The root must be a plain folder.
func (d *Daemon) PowerLoss() {
	d.t.Helper()
	if d.opts.RootTmpfs > 0 || d.opts.RootExt4 > 0 {
		d.t.Fatalf("a root with a mount of its own does not outlive the namespaces")
	}
	d.Kill()
	if err := killAll(d.tag, d.ns.pid, false); err != nil {
		d.t.Fatalf("%v", err)
	}
	// The holder's namespaces, and all that is in them, go with it.
	if err := d.ns.close(); err != nil {
		d.t.Fatalf("end the namespaces: %v", err)
	}
	if err := removeCgroups(d.tag); err != nil {
		d.t.Fatalf("%v", err)
	}
	if err := os.RemoveAll(d.execRoot); err != nil {
		d.t.Fatalf("remove run-time files: %v", err)
	}
	ns, err := newHolder(d.opts.Hostname)
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	d.ns = ns
	if err := os.WriteFile(filepath.Join(d.dir, holderFile), []byte(strconv.Itoa(ns.pid)), 0o644); err != nil {
		d.t.Fatalf("%v", err)
	}
	if d.opts.prepare != nil {
		if err := d.opts.prepare(ns); err != nil {
			d.t.Fatalf("%v", err)
		}
	}
}

// KillShims kills the shims of all containers and nothing else. It returns how
// many there were.
func (d *Daemon) KillShims() int {
	d.t.Helper()
	n := 0
	for _, p := range d.processes() {
		if name, _, _ := strings.Cut(p.cmdline, " "); filepath.Base(name) == "containerd-shim-runc-v2" {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err == nil {
				n++
			}
		}
	}
	return n
}
