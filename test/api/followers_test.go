package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"

	"holdfast.dev/holdfast/internal/testkit"
)

// followLog reads a container's log from its beginning to its end and tells how
// many lines came. Each must be the number after the one before.
func followLog(ctx context.Context, d *testkit.Daemon, name string) (int, error) {
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialAPI(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/containers/"+name+"/logs?follow=1&stdout=1", nil)
	if err != nil {
		return 0, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	out, in := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(in, io.Discard, resp.Body)
		_ = in.CloseWithError(err) // never fails
	}()
	lines := bufio.NewScanner(out)
	n := 0
	for ; lines.Scan(); n++ {
		if got := lines.Text(); got != strconv.Itoa(n) {
			return n, fmt.Errorf("after line %d comes %q", n-1, got)
		}
	}
	return n, lines.Err()
}

// TestFiftyFollowers: fifty clients follow one log that is written as fast as it
// can be, over the rotation of its files, and each sees every line once.
func TestFiftyFollowers(t *testing.T) {
	const followers, lines = 50, 20000
	d := daemon(t)
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			d := d.For(t)
			args := []string{"--name", "told", "--log-driver", driver}
			if engine != testkit.Dockerd { // whose followers lose lines at a rotation
				args = append(args, "--log-opt", "max-size=200k", "--log-opt", "max-file=50")
			}
			up(d, append(args, "busybox", "sh", "-c", "until [ -e /go ]; do usleep 20000; done; seq 0 "+strconv.Itoa(lines-1))...)
			ctx, cancel := context.WithTimeout(t.Context(), 3*settle)
			defer cancel()
			var wg sync.WaitGroup
			for i := range followers {
				wg.Go(func() {
					if n, err := followLog(ctx, d, "told"); err != nil || n != lines {
						t.Errorf("follower %d: %d lines of %d, %v", i, n, lines, err)
					}
				})
			}
			d.Docker("exec", "told", "touch", "/go")
			wg.Wait()
		})
	}
}
