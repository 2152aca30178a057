package ctrd

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/container"
)

// task is one container's processes and the shim that holds them.
type task struct {
	id     string
	shim   *shim // nil where it was dead when we came
	cgroup cgroup
	silent bool // its shim did not answer when we came; set before the task is shared

	mu      sync.Mutex // guards the fields below; never held across a call
	leaving bool       // the connection is closed by us
	dead    bool       // the shim died, and what it left is cleared away
	paused  bool       // signals wait until it goes on
	oom     bool       // an out-of-memory kill was reported
	procs   map[string]*process

	begun    chan struct{} // closed when the shim was started, or could not be
	beginErr error         // why it could not; valid when begun is closed
	claimed  bool          // by Create; guarded by Runtime.mu

	burial sync.Once      // of a dead shim
	end    container.Exit // found by burial
}

// process is the main process of a task (exec "") or another.
type process struct {
	exec string
	pid  int
	fd   int           // pidfd, or -1; valid until done is closed
	done chan struct{} // closed when exit is valid
	exit container.Exit
}

func newTask(id string) *task {
	return &task{id: id, procs: map[string]*process{}, begun: make(chan struct{})}
}

// add notes a process that runs, or did. It tells whether that was news.
func (t *task) add(exec string, pid int) (p *process, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.procs[exec]; old != nil {
		return old, false
	}
	p = &process{exec: exec, pid: pid, fd: -1, done: make(chan struct{})}
	t.procs[exec] = p
	return p, true
}

// aim opens a handle on the main process, which goes on meaning this process
// when its number is used again. A process that is gone has none.
func (t *task) aim(p *process) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return // signals go through the shim then
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.fd >= 0 || p.ended() {
		_ = unix.Close(fd)
		return
	}
	p.fd = fd
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// finish notes the end of a process, once. It reports whether it was news.
func (t *task) finish(p *process, e container.Exit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.ended() {
		return false
	}
	p.exit = e
	t.dropHandle(p)
	close(p.done)
	return true
}

func (t *task) dropHandle(p *process) {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

// signal sends directly to the process. handled is false where that cannot be.
func (t *task) signal(p *process, sig syscall.Signal) (handled bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.ended() {
		return true, errEnded
	}
	if p.fd < 0 || t.paused { // the shim knows how to wake a frozen one
		return false, nil
	}
	err = unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, errEnded
	}
	return true, err
}

var errEnded = fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)

func (t *task) known(exec string) (*process, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.procs[exec]
	return p, ok
}

func (t *task) forget(exec string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.procs[exec]; p != nil {
		t.dropHandle(p)
		delete(t.procs, exec)
	}
}

// leave marks the end of the connection as wanted.
func (t *task) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = true
}

func (t *task) left() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaving
}

// over tells whether the main process has ended, or is forgotten.
func (t *task) over() bool {
	p, ok := t.known("")
	return !ok || p.ended()
}

func (t *task) isDead() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dead
}

func (t *task) setPaused(paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = paused
}

// sawOOM reports whether this is the first out-of-memory kill.
func (t *task) sawOOM() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.oom
	t.oom = true
	return first
}
