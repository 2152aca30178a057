// Command testcontainers drives the daemon of DOCKER_HOST, which has the image
// busybox, with testcontainers-go. Run by test/compat; a module of its own, for
// what testcontainers brings.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
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
	do := run
	if len(os.Args) > 1 && os.Args[1] == "postgres" {
		do = withPostgres
	}
	if err := do(ctx); err != nil {
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

// withPostgres uses the module for Postgres: a script at the first start, a
// connection from outside, and a snapshot that is restored.
func withPostgres(ctx context.Context) (err error) {
	script := filepath.Join(os.TempDir(), fmt.Sprintf("init-%d.sql", os.Getpid()))
	if err := os.WriteFile(script, []byte("create table t (v int); insert into t values (1);"), 0o644); err != nil {
		return err
	}
	defer os.Remove(script)
	c, err := postgres.Run(ctx, "postgres:15", postgres.WithDatabase("shop"), postgres.WithUsername("keeper"), postgres.WithPassword("s3cret"),
		postgres.WithInitScripts(script), postgres.BasicWaitStrategies())
	if c != nil {
		defer func() {
			if terr := c.Terminate(context.WithoutCancel(ctx)); err == nil {
				err = terr
			}
		}()
	}
	if err != nil {
		return err
	}
	psql := func(sql string) (string, error) {
		code, out, err := c.Exec(ctx, []string{"psql", "-U", "keeper", "-d", "shop", "-Atc", sql}, exec.Multiplexed())
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(out)
		if err == nil && code != 0 {
			err = fmt.Errorf("psql: %d %s", code, b)
		}
		return strings.TrimSpace(string(b)), err
	}
	at, err := c.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return err
	}
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fmt.Errorf("published port: %w", err)
	}
	conn.Close()
	if err := c.Snapshot(ctx); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if _, err := psql("insert into t values (2)"); err != nil {
		return err
	}
	if err := c.Restore(ctx); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if sum, err := psql("select sum(v) from t"); err != nil || sum != "1" {
		return fmt.Errorf("after the restore: %q %w", sum, err)
	}
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
