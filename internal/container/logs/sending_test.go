package logs

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var sentAt = time.Date(2026, 3, 4, 5, 6, 7, 891000000, time.UTC)

func sending(t *testing.T, driver string, options map[string]string) Config {
	t.Helper()
	return Config{
		Type: driver, Options: options, Dir: filepath.Join(t.TempDir(), "kept"),
		ContainerID: strings.Repeat("ab", 32), ContainerName: "/web", ImageName: "img:1",
		Labels: map[string]string{"com.example-tier": "front"},
	}
}

// socketPath is short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

func datagrams(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // some tests close it
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func receive(t *testing.T, conn net.Conn) string {
	t.Helper()
	b := make([]byte, 64<<10)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestSyslogFormats(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	stamp := sentAt.Local().Format(time.Stamp)
	for _, tc := range []struct {
		options map[string]string
		stream  string
		want    string
	}{
		{nil, "stdout", "<30>" + stamp + " abababababab[" + pid + "]: said"},
		{nil, "stderr", "<27>" + stamp + " abababababab[" + pid + "]: said"},
		{map[string]string{"syslog-facility": "local3", "tag": "{{.Name}}/x"}, "stdout", "<158>" + stamp + " web/x[" + pid + "]: said"},
		{map[string]string{"syslog-facility": "1", "syslog-format": "rfc3164"}, "stdout", "<14>" + stamp + " " + host + " abababababab[" + pid + "]: said"},
		{map[string]string{"syslog-format": "rfc5424"}, "stdout", "<30>1 2026-03-04T05:06:07Z " + host + " abababababab " + pid + " abababababab - said"},
		{map[string]string{"syslog-format": "rfc5424micro"}, "stdout", "<30>1 2026-03-04T05:06:07.891000Z " + host + " abababababab " + pid + " abababababab - said"},
	} {
		path := socketPath(t)
		conn := datagrams(t, path)
		options := map[string]string{"syslog-address": "unixgram://" + path}
		for k, v := range tc.options {
			options[k] = v
		}
		c := sending(t, Syslog, options)
		l, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Log(Message{Stream: tc.stream, Time: sentAt, Line: []byte("said")}); err != nil {
			t.Error(err)
		}
		if got := receive(t, conn); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.options, got, tc.want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		// What was sent can be read, also once the log is closed.
		c.ReadOnly = true
		if l, err = Open(c); err != nil {
			t.Fatal(err)
		}
		var lines []string
		err = l.Read(t.Context(), ReadOptions{Tail: -1}, func(m Message) error {
			lines = append(lines, m.Stream+" "+string(m.Line))
			return nil
		})
		if err != nil || strings.Join(lines, "|") != tc.stream+" said" {
			t.Errorf("%v: read back %q, %v", tc.options, lines, err)
		}
	}
}

// A stream's syslog that goes and comes back gets the messages after that; what
// could not be sent is an error, and is kept in the file.
func TestSyslogOverTCPComesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	c := sending(t, Syslog, map[string]string{"syslog-address": "tcp://" + addr})
	log, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) error { return log.Log(Message{Stream: "stdout", Time: sentAt, Line: []byte(text)}) }
	if err := say("one"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasSuffix(line, ": one\n") {
		t.Errorf("got %q, %v", line, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for err = nil; err == nil && lost < 1000; lost++ {
		err = say("lost")
	}
	if err == nil || !strings.Contains(err.Error(), "send to syslog") {
		t.Errorf("nobody listens, and no error: %v", err)
	}
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := say("two"); err != nil {
		t.Error(err)
	}
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err = bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasSuffix(line, ": two\n") {
		t.Errorf("got %q, %v", line, err)
	}
	var kept []string
	if err := log.Read(t.Context(), ReadOptions{Tail: -1}, func(m Message) error {
		kept = append(kept, string(m.Line))
		return nil
	}); err != nil || len(kept) != lost+2 || kept[0] != "one" || kept[len(kept)-1] != "two" {
		t.Errorf("kept %d of %d: %v", len(kept), lost+2, err)
	}
}

func TestSendingOptions(t *testing.T) {
	for _, tc := range []struct {
		driver  string
		options map[string]string
		want    string
	}{
		{Syslog, map[string]string{"syslog-address": "udp://localhost"}, ""},
		{Syslog, map[string]string{"syslog-address": "tcp+tls://h:1", "syslog-tls-skip-verify": "1"}, ""},
		{Syslog, map[string]string{"syslog-address": "http://h"}, "unsupported scheme: 'http'"},
		{Syslog, map[string]string{"syslog-address": "unix:///nowhere/s"}, "no such file"},
		{Syslog, map[string]string{"syslog-facility": "nope"}, "invalid syslog facility"},
		{Syslog, map[string]string{"syslog-facility": "24"}, "invalid syslog facility"},
		{Syslog, map[string]string{"syslog-format": "x"}, "Invalid syslog format"},
		{Syslog, map[string]string{"gelf-address": "x"}, "unknown log opt 'gelf-address' for syslog log driver"},
		{Syslog, map[string]string{"tag": "{{.Nope"}, "template"},
		{Syslog, map[string]string{"cache-max-size": "x"}, "cache-max-size"},
		{Journald, map[string]string{"labels": "a", "env-regex": "b"}, ""},
		{Journald, map[string]string{"syslog-address": "x"}, "unknown log opt 'syslog-address' for journald log driver"},
		{Journald, map[string]string{"cache-disabled": "maybe"}, "cache-disabled"},
	} {
		err := Validate(tc.driver, tc.options)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %v: got %v, want %q", tc.driver, tc.options, err, tc.want)
		}
	}
}

func TestCacheDisabledIsNotReadable(t *testing.T) {
	path := socketPath(t)
	datagrams(t, path)
	c := sending(t, Syslog, map[string]string{"syslog-address": "unixgram://" + path, "cache-disabled": "true"})
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Read(context.Background(), ReadOptions{}, nil); err == nil || err.Error() != ErrNotReadable().Error() {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
		t.Errorf("a folder was made: %v", err)
	}
}

// fields reads an entry as the journal does.
func fields(t *testing.T, entry string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for entry != "" {
		line, rest, ok := strings.Cut(entry, "\n")
		if !ok {
			t.Fatalf("entry does not end with a newline: %q", entry)
		}
		if name, value, ok := strings.Cut(line, "="); ok {
			out[name], entry = value, rest
			continue
		}
		n := binary.LittleEndian.Uint64([]byte(rest[:8]))
		out[line], entry = rest[8:8+n], rest[8+n+1:]
	}
	return out
}

func TestJournalEntries(t *testing.T) {
	path := socketPath(t)
	c := sending(t, Journald, map[string]string{"tag": "{{.Name}}", "labels": "com.example-tier"})
	if _, err := dialJournal(c, path); err == nil || err.Error() != "journald is not enabled on this host" {
		t.Errorf("without a journal: %v", err)
	}
	conn := datagrams(t, path)
	s, err := dialJournal(c, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, m := range []Message{
		{Stream: "stdout", Time: sentAt, Line: []byte("said")},
		{Stream: "stderr", Time: sentAt, Line: []byte("two\nlines="), Partial: true},
	} {
		if err := s.send(m); err != nil {
			t.Fatal(err)
		}
		got := fields(t, receive(t, conn))
		want := map[string]string{
			"MESSAGE": string(m.Line), "PRIORITY": "6", "SYSLOG_TIMESTAMP": "2026-03-04T05:06:07.891Z",
			"CONTAINER_ID": "abababababab", "CONTAINER_ID_FULL": c.ContainerID, "CONTAINER_NAME": "web",
			"CONTAINER_TAG": "web", "SYSLOG_IDENTIFIER": "web", "IMAGE_NAME": "img:1", "COM_EXAMPLE_TIER": "front",
		}
		if m.Partial {
			want["PRIORITY"], want["CONTAINER_PARTIAL_MESSAGE"] = "3", "true"
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: got %q, want %q", k, got[k], v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v", got)
		}
	}
	// A journal that was started anew.
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	conn = datagrams(t, path)
	if err := s.send(Message{Stream: "stdout", Time: sentAt, Line: []byte("again")}); err != nil {
		t.Fatal(err)
	}
	if got := fields(t, receive(t, conn)); got["MESSAGE"] != "again" {
		t.Errorf("got %v", got)
	}
}
