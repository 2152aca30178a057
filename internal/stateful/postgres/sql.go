package postgres

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// session is a connection to the server over its socket, by the server's own
// protocol: version 3, simple queries, no password (the server knows this user).
type session struct {
	mu   sync.Mutex // held for a query
	conn net.Conn
	in   *bufio.Reader
}

// queryLimit bounds a query whose caller has no deadline.
const queryLimit = 30 * time.Second

// query runs SQL in the session and returns the rows it answers, their columns
// joined by "|".
func (s *Server) query(ctx context.Context, sql string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	q := &s.session
	q.mu.Lock()
	defer q.mu.Unlock()
	rows, err := s.ask(ctx, q, sql)
	var answered *serverError
	if err != nil && !errors.As(err, &answered) {
		q.close()
	}
	return rows, err
}

// serverError is what the server says of a query; the session goes on.
type serverError struct{ text string }

func (e *serverError) Error() string { return "server: " + e.text }

func (s *Server) ask(ctx context.Context, q *session, sql string) ([]string, error) {
	if q.conn == nil {
		if err := s.connect(ctx, q); err != nil {
			return nil, err
		}
	}
	conn := q.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed one needs none
	defer stop()
	if err := q.send('Q', append([]byte(sql), 0)); err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	rows, err := q.answer()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("ask the server: %w", ctx.Err())
	}
	return rows, err
}

func (s *Server) connect(ctx context.Context, q *session) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", s.c.SocketDir, s.c.Port))
	if err != nil {
		return fmt.Errorf("reach the server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	q.conn, q.in = conn, bufio.NewReader(conn)
	b := binary.BigEndian.AppendUint32(nil, 3<<16)
	for _, kv := range []string{"user", s.c.Superuser, "database", "postgres", "application_name", "holdfast", "options", "-c synchronous_commit=local -c statement_timeout=30s"} {
		b = append(append(b, kv...), 0)
	}
	if err := q.send(0, append(b, 0)); err != nil {
		return fmt.Errorf("reach the server: %w", err)
	}
	if _, err := q.answer(); err != nil {
		q.close() // also where the server refuses
		return fmt.Errorf("reach the server: %w", err)
	}
	return nil
}

// send writes a message; kind 0 is the first one, which has none.
func (q *session) send(kind byte, body []byte) error {
	var b []byte
	if kind != 0 {
		b = append(b, kind)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	_, err := q.conn.Write(append(b, body...))
	return err
}

// maxRow bounds one message of the server.
const maxRow = 1 << 20

// answer reads messages until the server waits for the next query.
func (q *session) answer() (rows []string, err error) {
	for {
		var head [5]byte
		if _, rerr := io.ReadFull(q.in, head[:]); rerr != nil {
			return nil, errors.Join(err, rerr)
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n < 4 || n > maxRow {
			return nil, fmt.Errorf("the server sends a message of %d bytes", n)
		}
		body := make([]byte, n-4)
		if _, rerr := io.ReadFull(q.in, body); rerr != nil {
			return nil, errors.Join(err, rerr)
		}
		switch head[0] {
		case 'D':
			row, derr := columns(body)
			if derr != nil {
				return nil, derr
			}
			rows = append(rows, row)
		case 'E':
			err = &serverError{errorText(body)}
		case 'R':
			if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
				return nil, errors.New("the server asks for a password")
			}
		case 'Z':
			return rows, err
		}
	}
}

func columns(b []byte) (string, error) {
	bad := errors.New("the server sends a row that ends early")
	if len(b) < 2 {
		return "", bad
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	out := make([]string, 0, n)
	for range n {
		if len(b) < 4 {
			return "", bad
		}
		size := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size < 0 { // null
			out = append(out, "")
			continue
		}
		if int(size) > len(b) {
			return "", bad
		}
		out = append(out, string(b[:size]))
		b = b[size:]
	}
	return strings.Join(out, "|"), nil
}

// errorText is the message in an error's fields.
func errorText(b []byte) string {
	for field := range bytes.SplitSeq(b, []byte{0}) {
		if len(field) > 1 && field[0] == 'M' {
			return string(field[1:])
		}
	}
	return "an error without a text"
}

func (q *session) close() {
	if q.conn != nil {
		_ = q.conn.Close() // nothing of it is wanted any more
		q.conn = nil
	}
}

func (q *session) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.close()
}

// bin is the path of one of Postgres's programs.
func (s *Server) bin(name string) string { return filepath.Join(s.c.BinDir, name) }

// FindPrograms returns the folder of Postgres's programs.
func FindPrograms() (string, error) {
	if p, err := exec.LookPath("postgres"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			return filepath.Dir(p), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("the image has no Postgres server: %w", os.ErrNotExist)
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// literal writes text as SQL does.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
