package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// journalSocket is where systemd's journal takes entries.
const journalSocket = "/run/systemd/journal/socket"

// journalSender sends entries by the journal's own protocol: a datagram of
// fields, NAME=value in a line each, or NAME, the value's length (64 bits, little
// endian) and the value where that has newlines.
type journalSender struct {
	fields map[string]string // of every entry

	mu   sync.Mutex // guards conn and buf
	conn *net.UnixConn
	addr net.UnixAddr
	buf  []byte
}

func dialJournal(c Config, socket string) (sender, error) {
	if _, err := os.Stat(socket); err != nil {
		return nil, errors.New("journald is not enabled on this host")
	}
	tag, err := tagOf(c, "{{.ID}}")
	if err != nil {
		return nil, err
	}
	attrs, err := attributes(Config{Labels: c.Labels, Env: c.Env, Options: withoutKey(c.Options, "tag")})
	if err != nil {
		return nil, err
	}
	fields := map[string]string{
		"CONTAINER_ID": short(c.ContainerID), "CONTAINER_ID_FULL": c.ContainerID,
		"CONTAINER_NAME": strings.TrimPrefix(c.ContainerName, "/"), "CONTAINER_TAG": tag,
		"IMAGE_NAME": c.ImageName, "SYSLOG_IDENTIFIER": tag,
	}
	for k, v := range attrs {
		if name := fieldName(k); name != "" && fields[name] == "" {
			fields[name] = v
		}
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("failed to initialize logging driver: %w", err)
	}
	return &journalSender{fields: fields, conn: conn, addr: net.UnixAddr{Name: socket, Net: "unixgram"}}, nil
}

func withoutKey(m map[string]string, key string) map[string]string {
	out := maps.Clone(m)
	delete(out, key)
	return out
}

// fieldName makes a name that the journal takes: capitals, digits and
// underscores, not an underscore first.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return strings.TrimLeft(name, "_0123456789")
}

func (s *journalSender) send(m Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = s.entry(s.buf[:0], m)
	if _, err := s.conn.Write(s.buf); err == nil {
		return nil
	}
	// The journal was started anew: its socket is another one.
	conn, err := net.DialUnix("unixgram", nil, &s.addr)
	if err != nil {
		return fmt.Errorf("send to journald: %w", err)
	}
	_ = s.conn.Close() // it is broken
	s.conn = conn
	if _, err := conn.Write(s.buf); err != nil {
		return fmt.Errorf("send to journald: %w", err)
	}
	return nil
}

func (s *journalSender) entry(b []byte, m Message) []byte {
	priority := severityInfo
	if m.Stream == "stderr" {
		priority = severityError
	}
	b = appendField(b, "MESSAGE", m.Line)
	b = appendField(b, "PRIORITY", fmt.Append(nil, priority))
	b = appendField(b, "SYSLOG_TIMESTAMP", m.Time.AppendFormat(nil, time.RFC3339Nano))
	if m.Partial {
		b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", []byte("true"))
	}
	for _, k := range slices.Sorted(maps.Keys(s.fields)) {
		b = appendField(b, k, []byte(s.fields[k]))
	}
	return b
}

func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	if !slices.Contains(value, '\n') {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	return append(append(b, value...), '\n')
}

func (s *journalSender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Close()
}
