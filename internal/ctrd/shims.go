package ctrd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
)

const (
	// shimLimit bounds calls that a healthy shim answers at once.
	shimLimit = 10 * time.Second
	// cleanLimit bounds what is done for a shim that died.
	cleanLimit = 30 * time.Second
	// maxSocketPath is what the kernel takes as the name of a socket.
	maxSocketPath = 107
	// socketName is how much of the hash of a container's ID names its shim's socket.
	socketName = 24
	// shimLogTail is how much of a shim's log an error quotes.
	shimLogTail = 1 << 10
	// maxOOMScore is the most that the kernel takes.
	maxOOMScore = 1000
)

// shims starts shims, finds them again and clears up after dead ones.
//
// containerd's own shim manager is not used: it runs the shim program twice
// more per container (to start the shim and after it is gone), asks runc for
// the processes of every container when the daemon starts, and then throws away
// the containers that ended while the daemon was away, with their exit codes.
type shims struct {
	program string // the shim
	mark    string // what is on the command line of each of our shims
	events  string // socket to which shims report
	bundles string // one directory per task
	sockets string
	log     *slog.Logger
	// life is inherited by shims. We hold the other end and never write: it ends
	// with us, and then a shim without a task has no reason to stay.
	life, lifeEnd *os.File
}

// shim is a connection to one running shim.
type shim struct {
	conn *ttrpc.Client
	api  taskapi.TTRPCTaskService
}

func (s *shims) open() error {
	longest := s.socket("")
	if len(longest) > maxSocketPath {
		return fmt.Errorf("the path %s is too long for a socket by %d bytes, choose a shorter exec root: %w",
			longest, len(longest)-maxSocketPath, errdefs.ErrInvalidArgument)
	}
	var err error
	if s.life, s.lifeEnd, err = os.Pipe(); err != nil {
		return fmt.Errorf("make the shims' lifeline: %w", err)
	}
	return nil
}

func (s *shims) close() error { return errors.Join(s.life.Close(), s.lifeEnd.Close()) }

func (s *shims) bundle(id string) string { return filepath.Join(s.bundles, id) }

// socket is short: names of sockets must be, and IDs are not.
func (s *shims) socket(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.sockets, hex.EncodeToString(sum[:])[:socketName])
}

// begin makes a bundle and starts a shim for it. There must be no task of that
// name: what lies in the way is left from one that could not be removed whole.
func (s *shims) begin(ctx context.Context, id string) error {
	err := os.Mkdir(s.bundle(id), 0o711)
	if errors.Is(err, os.ErrExist) {
		if err = s.discard(id); err == nil {
			err = os.Mkdir(s.bundle(id), 0o711)
		}
	}
	if err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := s.spawn(ctx, id); err != nil {
		return errors.Join(fmt.Errorf("start shim: %w", err), s.discard(id))
	}
	return nil
}

// join fills the bundle of a shim that was begun and connects to it.
func (s *shims) join(ctx context.Context, id string, spec *specs.Spec) (*shim, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	//nolint:forbidigo // read by this run's shim alone, and made anew for the next
	if err := os.WriteFile(filepath.Join(s.bundle(id), "config.json"), b, 0o600); err != nil {
		return nil, fmt.Errorf("write spec: %w", err)
	}
	return s.connect(ctx, id)
}

// giveUp ends a shim that was begun and never asked for a task.
func (s *shims) giveUp(ctx context.Context, id string) error {
	h, err := s.connect(ctx, id)
	if err == nil {
		err = s.shutdown(ctx, id, h)
	}
	return errors.Join(err, s.discard(id))
}

// spawn starts the shim's process. It inherits its listening socket, so that it
// can be called before it is up. The process is reaped here while we live and
// by whoever adopts it after.
func (s *shims) spawn(ctx context.Context, id string) error {
	path := s.socket(id)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	ul := l.(*net.UnixListener) //nolint:forcetypeassert // the network is "unix"
	ul.SetUnlinkOnClose(false)
	defer ul.Close() // the shim has its own
	lf, err := ul.File()
	if err != nil {
		return err
	}
	defer lf.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	// A plain file as log needs nobody who reads it.
	logf, err := os.OpenFile(filepath.Join(s.bundle(id), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logf.Close()

	cmd := s.command(context.WithoutCancel(ctx), id)
	cmd.Stderr = logf
	cmd.ExtraFiles = []*os.File{lf, s.life}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.sacrifice(id, cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // how it ended is told by its connection
	return nil
}

// sacrifice lets the kernel, when memory runs out, take the shim before the daemon.
func (s *shims) sacrifice(id string, pid int) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		var n int
		if n, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
			err = os.WriteFile(path, []byte(strconv.Itoa(min(n+1, maxOOMScore))), 0) //nolint:forbidigo // the kernel's
		}
	}
	if err != nil {
		s.log.Debug("shim as dear to the kernel as the daemon", logkey.Container, id, logkey.Err, err)
	}
}

func (s *shims) command(ctx context.Context, id string, more ...string) *exec.Cmd {
	args := append([]string{"-namespace", Namespace, "-id", id, "-address", s.mark}, more...)
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Dir = s.bundle(id)
	// Not our environment: it may hold secrets, and NOTIFY_SOCKET is not for runc.
	// One processor: what a shim does is wait, and each further one costs every
	// running container a third of a megabyte of caches and threads.
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"GOMAXPROCS=1", "TTRPC_ADDRESS=" + s.events, "NAMESPACE=" + Namespace,
	}
	// A signal for our process group is not for shims.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (s *shims) connect(ctx context.Context, id string) (*shim, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket(id))
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w", err)
	}
	conn := ttrpc.NewClient(c)
	return &shim{conn: conn, api: taskapi.NewTTRPCTaskClient(conn)}, nil
}

// shutdown ends a shim that has no task any more.
func (s *shims) shutdown(ctx context.Context, id string, h *shim) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shimLimit)
	defer cancel()
	_, err := h.api.Shutdown(in(ctx), &taskapi.ShutdownRequest{ID: id})
	if err = fromShim(err); errdefs.IsNotFound(err) {
		err = nil // it was quicker than its answer
	}
	return errors.Join(err, h.conn.Close())
}

// bury ends what a shim that is gone left running and tells how its task ended.
// It is safe to repeat.
func (s *shims) bury(ctx context.Context, id string) container.Exit {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	exit := container.Exit{Code: 128 + int(syscall.SIGKILL), At: time.Now()}
	cmd := s.command(ctx, id, "-bundle", s.bundle(id), "delete")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var resp taskapi.DeleteResponse
	if err == nil {
		err = proto.Unmarshal(out, &resp)
	}
	switch {
	case err != nil:
		s.log.Error("what a dead shim left is not cleared away", logkey.Container, id, logkey.Err, err, logkey.Text, stderr.String())
	case resp.GetExitedAt().IsValid():
		exit = container.Exit{Code: int(resp.GetExitStatus()), At: resp.GetExitedAt().AsTime()}
	}
	return exit
}

// discard removes the files of a task.
func (s *shims) discard(id string) error {
	err := os.Remove(s.socket(id))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.bundle(id)))
}

// quoteLog adds the end of the shim's log to an error that came of its death.
func (s *shims) quoteLog(id string, err error) error {
	if !errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	f, oerr := os.Open(filepath.Join(s.bundle(id), "log"))
	if oerr != nil {
		return err
	}
	defer f.Close()
	if end, serr := f.Seek(0, io.SeekEnd); serr == nil {
		if _, serr = f.Seek(max(0, end-shimLogTail), io.SeekStart); serr != nil {
			return err
		}
	}
	text, rerr := io.ReadAll(f)
	if rerr != nil || len(text) == 0 {
		return err
	}
	return fmt.Errorf("%w: the shim's last words: %s", err, strings.TrimSpace(string(text)))
}

// known lists the tasks that have a bundle.
func (s *shims) known() ([]string, error) {
	entries, err := os.ReadDir(s.bundles)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// fromShim gives the error of a call its class. A closed connection is a shim
// that died, and its processes with it.
func fromShim(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	err = errgrpc.ToNative(err)
	if !errdefs.IsNotFound(err) && strings.Contains(err.Error(), "process already finished") {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// fromExec gives the errors of an exec a kind as well: shim and runc refuse one
// in a container that has stopped or been paused with words only ("cannot exec
// in a stopped state", "cannot exec in a paused container").
func fromExec(err error) error {
	err = fromShim(err)
	if err != nil && strings.Contains(err.Error(), "cannot exec in a") {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}
