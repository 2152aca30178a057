// Command holdfast-backup does the work of one backup, restore or verification for
// holdfastd, which starts it. It ends when its standard input does.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"holdfast.dev/holdfast/internal/backup/kopia"
	"holdfast.dev/holdfast/internal/backup/process"
	"holdfast.dev/holdfast/internal/volume/archive"
)

// niceness leaves the processors to the containers.
const niceness = 10

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness); err != nil {
		fmt.Fprintln(os.Stderr, "priority not lowered:", err)
	}
	line, err := call(os.Stdin)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until nobody waits any more
		os.Exit(3)
	}()
	e := &kopia.Engine{Now: time.Now, Unpack: func(ctx context.Context, from io.Reader, dir string) error {
		_, err := archive.Extract(ctx, from, dir)
		return err
	}}
	return process.Serve(context.Background(), e, bytes.NewReader(line), os.Stdout, time.Now)
}

// maxCall bounds what is read of a call.
const maxCall = 16 << 20

// call reads a line and nothing after it.
func call(in io.Reader) ([]byte, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < maxCall {
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, fmt.Errorf("read the call: %w", err)
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
	return nil, fmt.Errorf("a call of more than %d bytes", maxCall)
}
