// Command holdfast-member runs in the container of a member of a stateful set, in
// place of the image's entrypoint, and holds its database. The node's agent tells
// it what to do over a socket; when the agent is silent for too long it ends a
// leader by itself. Its arguments are the service's command.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful/member"
	"holdfast.dev/holdfast/internal/stateful/postgres"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log, os.Args[1:]); err != nil {
		log.Error("member ended", logkey.Err, err)
		os.Exit(1)
	}
}

func run(log *slog.Logger, args []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer cancel()
	lock, err := hold(ctx, log)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // it ends with the process anyway
	c, err := configure(log, args)
	if err != nil {
		return err
	}
	s, err := postgres.New(c)
	if err != nil {
		return err
	}
	l, err := listen()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return member.Serve(ctx, l, s) })
	g.Go(func() error { return s.Run(ctx) })
	return g.Wait()
}

// hold takes the volume for this container alone. The lock ends with this process,
// and with the process everything in the container.
func hold(ctx context.Context, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(member.StateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the volume: %w", err)
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock the volume: %w", err), f.Close())
		}
		if !told {
			log.Info("waiting: another container has the volume")
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-t.C:
		}
	}
}

func listen() (net.Listener, error) {
	p := filepath.Join(member.RunDir, member.Socket)
	if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", p)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, os.Chmod(p, 0o600)
}

func configure(log *slog.Logger, args []string) (postgres.Config, error) {
	c := postgres.Config{
		Log: log, Now: member.Now, Set: os.Getenv(member.EnvSet), Member: os.Getenv(member.EnvMember), StateDir: member.StateDir,
		SocketDir: "/var/run/postgresql", Data: or(os.Getenv("PGDATA"), "/var/lib/postgresql/data"),
		Superuser: or(os.Getenv("POSTGRES_USER"), "postgres"), Database: os.Getenv("POSTGRES_DB"),
		Trust: os.Getenv("POSTGRES_HOST_AUTH_METHOD") == "trust", Scripts: "/docker-entrypoint-initdb.d",
	}
	var err error
	if c.Port, err = strconv.Atoi(os.Getenv(member.EnvPort)); err != nil || c.Member == "" {
		return c, errors.New("this program is started by Holdfast, in containers of a set")
	}
	if c.Database == "" {
		c.Database = c.Superuser
	}
	c.Password = os.Getenv("POSTGRES_PASSWORD")
	if p := os.Getenv("POSTGRES_PASSWORD_FILE"); p != "" {
		b, err := os.ReadFile(p)
		if err != nil {
			return c, fmt.Errorf("read the superuser's password: %w", err)
		}
		c.Password = strings.TrimRight(string(b), "\n")
	}
	if c.Args, err = postgres.Args(args); err != nil {
		return c, err
	}
	if c.BinDir, err = postgres.FindPrograms(); err != nil {
		return c, err
	}
	c.Include = []string{filepath.Join(c.Data, "postgresql.conf")}
	if os.Getuid() != 0 {
		return c, errors.New("a member of a set starts as root and gives that up: take --user away from the service")
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return c, fmt.Errorf("find the server's user in the image: %w", err)
	}
	c.Owner = u.Username
	if c.UID, err = strconv.Atoi(u.Uid); err != nil {
		return c, err
	}
	if c.GID, err = strconv.Atoi(u.Gid); err != nil {
		return c, err
	}
	return c, prepare(c)
}

// prepare makes the folders that the server's user needs.
func prepare(c postgres.Config) error {
	for _, dir := range []string{filepath.Dir(c.Data), c.Data, c.SocketDir, c.StateDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.Data, c.SocketDir, c.StateDir} {
		if err := os.Chown(dir, c.UID, c.GID); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(c.StateDir, 0o700), os.Chmod(c.Data, 0o700))
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
