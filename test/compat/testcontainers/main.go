// Command testcontainers drives the daemon of DOCKER_HOST, which has the image
// busybox, with testcontainers-go. Run by test/compat; a module of its own, for
// what testcontainers brings.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/wait"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if len(os.Args) > 1 && os.Args[1] == "abandon" {
		if err := abandon(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("all went well")
}

// abandon leaves a container behind, as a test that dies does. With Ryuk on, it is
// removed once this program is gone.
func abandon(ctx context.Context) error {
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{Image: "busybox", Cmd: []string{"sleep", "600"}},
		Started:          true,
	})
	if err != nil {
		return err
	}
	state, err := c.State(ctx)
	if err != nil || !state.Running {
		return fmt.Errorf("state: %+v %w", state, err)
	}
	fmt.Println("abandoned", c.GetContainerID())
	return nil
}

func run(ctx context.Context) (err error) {
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image: "busybox",
			Cmd:   []string{"sh", "-c", "sleep 0.3; echo ready for all; echo ok > /ready; exec sleep 600"},
			Env:   map[string]string{"WHO": "tc"},
			Files: []testcontainers.ContainerFile{{Reader: strings.NewReader("put\n"), ContainerFilePath: "/put", FileMode: 0o644}},
			WaitingFor: wait.ForAll(
				wait.ForLog("ready for all"),
				wait.ForExec([]string{"test", "-s", "/ready"}),
			).WithDeadline(60 * time.Second),
		},
		Started: true,
	})
	if err != nil {
		return err
	}
	defer func() {
		if terr := c.Terminate(context.WithoutCancel(ctx)); err == nil {
			err = terr
		}
	}()
	code, out, err := c.Exec(ctx, []string{"sh", "-c", "echo $WHO; cat /put; exit 4"}, exec.Multiplexed())
	if err != nil {
		return err
	}
	b, err := io.ReadAll(out)
	if err != nil || code != 4 || string(b) != "tc\nput\n" {
		return fmt.Errorf("exec: %d %q %w", code, b, err)
	}
	logs, err := c.Logs(ctx)
	if err != nil {
		return err
	}
	defer logs.Close()
	if b, err = io.ReadAll(logs); err != nil || !strings.Contains(string(b), "ready for all") {
		return fmt.Errorf("logs: %q %w", b, err)
	}
	file, err := c.CopyFileFromContainer(ctx, "/put")
	if err != nil {
		return err
	}
	defer file.Close()
	if b, err = io.ReadAll(file); err != nil || string(b) != "put\n" {
		return fmt.Errorf("copy: %q %w", b, err)
	}
	stop := 2 * time.Second
	if err := c.Stop(ctx, &stop); err != nil {
		return err
	}
	state, err := c.State(ctx)
	if err != nil || state.Running {
		return fmt.Errorf("after stop: %+v %w", state, err)
	}
	return nil
}
