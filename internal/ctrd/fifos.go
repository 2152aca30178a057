package ctrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.dev/holdfast/internal/container"
)

// fifos are the named pipes between shims and us: <dir>/<container>/stdout for
// a main process, <dir>/<container>/<exec>-stdout for another. They stay while
// we are away, and the shim keeps their ends open, so nothing in them is lost.
type fifos struct{ dir string }

// pipes are our ends, and where the shim finds the others.
type pipes struct {
	io      paths
	streams container.Streams
}

type paths struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// prepare makes the fifos where they are missing and opens the ends that we
// read. Reading must wait until the shim has opened its ends (it has when
// Create or Exec return): before, there is no writer, which reads as the end.
func (f fifos) prepare(id, exec string, stdin, terminal bool) (_ *pipes, err error) {
	dir := filepath.Join(f.dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make stream directory: %w", err)
	}
	p := &pipes{io: paths{Terminal: terminal}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.io.Stdout = filepath.Join(dir, fifoName(exec, "stdout"))
	if p.streams.Stdout, err = openRead(p.io.Stdout); err != nil {
		return nil, err
	}
	if !terminal {
		p.io.Stderr = filepath.Join(dir, fifoName(exec, "stderr"))
		if p.streams.Stderr, err = openRead(p.io.Stderr); err != nil {
			return nil, err
		}
	}
	if stdin {
		p.io.Stdin = filepath.Join(dir, fifoName(exec, "stdin"))
		if err = mkfifo(p.io.Stdin); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func fifoName(exec, stream string) string {
	if exec == "" {
		return stream
	}
	return exec + "-" + stream
}

func mkfifo(path string) error {
	if err := syscall.Mkfifo(path, 0o600); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make fifo %s: %w", path, err)
	}
	return nil
}

// openRead opens without waiting for a writer. The file is pollable: no thread
// is blocked by a silent container.
func openRead(path string) (*os.File, error) {
	if err := mkfifo(path); err != nil {
		return nil, err
	}
	fd, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open output of process: %w", err)
	}
	return fd, nil
}

// readerLimit bounds the wait for a shim to open its end of an input.
const readerLimit = 10 * time.Second

// openStdin opens the end that we write, where there is one, once the shim has
// the other: it opens it in the background, and what is written and closed
// before that is lost, the end of the input too.
func (p *pipes) openStdin(ctx context.Context) error {
	if p.io.Stdin == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readerLimit)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		fd, err := os.OpenFile(p.io.Stdin, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			p.streams.Stdin = fd
			return nil
		}
		if !errors.Is(err, syscall.ENXIO) {
			return fmt.Errorf("open input of process: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the shim to open the input of the process: %w", ctx.Err())
		}
	}
}

// reopenStdin is openStdin for a process of an earlier daemon. Its shim has the
// other end, or has closed it because the process ended; then what is written is
// nobody's. The process sees the end of its input when this end is closed and the
// shim was told to close its own.
func (p *pipes) reopenStdin() error {
	if p.io.Stdin == "" {
		return nil
	}
	fd, err := os.OpenFile(p.io.Stdin, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open input of process: %w", err)
	}
	p.streams.Stdin = fd
	return nil
}

func (p *pipes) close() {
	for _, c := range []interface{ Close() error }{p.streams.Stdin, p.streams.Stdout, p.streams.Stderr} {
		if f, ok := c.(*os.File); ok && f != nil {
			_ = f.Close() // nothing was written
		}
	}
}

func (f fifos) remove(id string) error {
	if err := os.RemoveAll(filepath.Join(f.dir, id)); err != nil {
		return fmt.Errorf("remove fifos: %w", err)
	}
	return nil
}

func (f fifos) removeExec(id, exec string) error {
	var errs []error
	for _, s := range []string{"stdin", "stdout", "stderr"} {
		if err := os.Remove(filepath.Join(f.dir, id, fifoName(exec, s))); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (f fifos) containers() ([]string, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("list fifos: %w", err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}
