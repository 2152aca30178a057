package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holder is a process that keeps a network, a mount and a UTS namespace alive. Daemons
// enter it, so what they leave there outlives them.
type holder struct {
	cmd *exec.Cmd
	pid int
}

// newHolder makes the namespaces; hostname may be empty for the machine's.
func newHolder(hostname string) (*holder, error) {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Unshareflags and not Cloneflags: then Go also makes the mounts private.
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		Setpgid:      true,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start namespace holder: %w", err)
	}
	h := &holder{cmd: cmd, pid: cmd.Process.Pid}
	if out, err := h.command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("set lo up: %w: %s", err, out), h.close())
	}
	if hostname != "" {
		if out, err := h.command("hostname", hostname).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("set the name of the machine: %w: %s", err, out), h.close())
		}
	}
	return h, nil
}

func (h *holder) close() error {
	if err := h.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = h.cmd.Wait() // always "signal: killed"
	return nil
}

// command is a program that will run in the namespaces. nsenter execs it, so the
// process started is the program itself.
func (h *holder) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-n", "-m", "-u", "--wd=/", "--", name}, args...)...)
}

// path is where a path of the mount namespace can be read from outside.
func (h *holder) path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(h.pid), "root", p)
}

// do runs fn on a thread inside the network namespace. Goroutines that fn starts
// are outside of it.
func (h *holder) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so a failed return
		// to the old namespace cannot leak into other tests.
		runtime.LockOSThread()
		ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(h.pid), "ns/net"))
		if err != nil {
			result <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- fn()
	}()
	return <-result
}

func (h *holder) dial(network, addr string) (c net.Conn, err error) {
	err = h.do(func() error {
		// No fallback race: that would dial from another thread.
		c, err = (&net.Dialer{FallbackDelay: -1, Timeout: 5 * time.Second}).Dial(network, addr)
		return err
	})
	return c, err
}

// Do runs fn inside the daemon's network namespace, where published ports are.
// Goroutines that fn starts are outside of it.
func (d *Daemon) Do(fn func()) {
	d.t.Helper()
	if err := d.ns.do(func() error { fn(); return nil }); err != nil {
		d.t.Fatalf("enter the daemon's namespace: %v", err)
	}
}

// Dial connects from inside the daemon's network namespace. addr must hold a
// literal IP address.
func (d *Daemon) Dial(network, addr string) (net.Conn, error) { return d.ns.dial(network, addr) }

// Listen listens inside the daemon's network namespace; the listener works from
// any goroutine and is closed with the test.
func (d *Daemon) Listen(network, addr string) net.Listener {
	d.t.Helper()
	var l net.Listener
	err := d.ns.do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		d.t.Fatalf("listen on %s in the daemon's namespace: %v", addr, err)
	}
	d.t.Cleanup(func() { _ = l.Close() }) // may be closed already
	return l
}

// HTTP is a client whose connections start inside the daemon's network namespace.
func (d *Daemon) HTTP() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return d.ns.dial(network, addr)
			},
		},
	}
}

// Exec runs a program in the daemon's namespaces and returns its output.
func (d *Daemon) Exec(name string, args ...string) string {
	d.t.Helper()
	out, err := d.ns.command(name, args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %q in the daemon's namespaces: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// EnterArgs is the beginning of a command line that runs a program in the
// daemon's namespaces, for other processes.
func (d *Daemon) EnterArgs() []string {
	args := d.ns.command("").Args
	return args[:len(args)-1]
}

// Path is where the test reads a path of the daemon's mount namespace.
func (d *Daemon) Path(p string) string { return d.ns.path(p) }

// Forward gives an address outside of the namespace that leads to addr inside,
// for programs such as a browser that cannot enter it.
func (d *Daemon) Forward(addr string) string {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatalf("listen: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() { d.relay(c, addr) })
		}
	})
	d.t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func (d *Daemon) relay(c net.Conn, addr string) {
	defer c.Close()
	up, err := d.ns.dial("tcp", addr)
	if err != nil {
		return // the caller sees a closed connection, as from a closed port
	}
	defer up.Close()
	done := make(chan struct{}, 2)
	for _, p := range [][2]net.Conn{{c, up}, {up, c}} {
		go func() {
			_, _ = io.Copy(p[0], p[1]) // either end may go at any time
			done <- struct{}{}
		}()
	}
	<-done
	_ = c.Close()
	_ = up.Close()
	<-done
}
