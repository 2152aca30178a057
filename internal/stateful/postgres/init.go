package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// command runs one of Postgres's programs as the server's user.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin(name), args...)
	s.asOwner(cmd)
	return cmd
}

// initdb makes a new database. Called with do held.
func (s *Server) initdb(ctx context.Context) error {
	if err := s.clear(); err != nil {
		return err
	}
	locale := "C.UTF-8"
	if _, err := os.Stat("/usr/lib/locale/C.utf8"); err != nil {
		locale = "C" // an image without locales
	}
	args := []string{"-D", s.c.Data, "-U", s.c.Superuser, "--data-checksums", "-E", "UTF8", "--locale=" + locale, "--auth=reject"}
	if out, err := s.command(ctx, "initdb", args...).CombinedOutput(); err != nil {
		if cerr := s.clear(); cerr != nil {
			return cerr
		}
		return fmt.Errorf("make a database: %w: %s", err, strings.TrimSpace(string(out)))
	}
	s.kept.Whole = true
	if err := s.save(); err != nil {
		return err
	}
	s.publish()
	return nil
}

// firstTime makes what a new set has: the members' role, the superuser's password,
// the database, and what the image's or the user's scripts do. It may be repeated,
// but for the scripts, which run before it is done or not at all.
func (s *Server) firstTime(ctx context.Context, secret string) error {
	role := "select 1 from pg_roles where rolname = '" + Role + "'"
	lines, err := s.query(ctx, role)
	if err != nil {
		return err
	}
	verb := "create"
	if len(lines) > 0 {
		verb = "alter"
	}
	if _, err := s.query(ctx, verb+" role "+Role+" login replication password "+literal(secret)); err != nil {
		return fmt.Errorf("make the members' role: %w", err)
	}
	if s.c.Password != "" {
		if _, err := s.query(ctx, "alter role "+ident(s.c.Superuser)+" password "+literal(s.c.Password)); err != nil {
			return fmt.Errorf("set the superuser's password: %w", err)
		}
	}
	db := s.c.Database
	if db == "" || db == "postgres" {
		db = "postgres"
	} else {
		lines, err := s.query(ctx, "select 1 from pg_database where datname = "+literal(db))
		if err != nil {
			return err
		}
		if len(lines) > 0 {
			return nil
		}
		if _, err := s.query(ctx, "create database "+ident(db)); err != nil {
			return fmt.Errorf("make the database %s: %w", db, err)
		}
	}
	return s.scripts(ctx, db)
}

// scripts runs those that images of Postgres run.
func (s *Server) scripts(ctx context.Context, db string) error {
	var all []string
	for _, pattern := range []string{"*.sql", "*.sh"} {
		found, err := filepath.Glob(filepath.Join(s.c.Scripts, pattern))
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	env := []string{"PGHOST=" + s.c.SocketDir, fmt.Sprintf("PGPORT=%d", s.c.Port), "PGUSER=" + s.c.Superuser, "PGDATABASE=" + db, "PGOPTIONS=-c synchronous_commit=local"}
	for _, p := range all {
		cmd := s.command(ctx, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", p)
		if strings.HasSuffix(p, ".sh") {
			cmd = exec.CommandContext(ctx, "/bin/sh", p)
			s.asOwner(cmd)
		}
		cmd.Env = append(cmd.Env, env...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("run %s: %w", p, err)
		}
	}
	return nil
}
