package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/archive"
)

// sends are the cases of drivers that can send and receive.
func (s suite) sends(t *testing.T) {
	for name, test := range map[string]func(*testing.T, volume.Driver, volume.Spec){
		"Send":            s.send,
		"SendPresent":     s.sendPresent,
		"SendChanges":     s.sendChanges,
		"SendBackwards":   s.sendBackwards,
		"ReceiveTar":      s.receiveTar,
		"ReceiveCutOff":   s.receiveCutOff,
		"ReceiveHostile":  s.receiveHostile,
		"ReceiveRefused":  s.receiveRefused,
		"SendInterrupted": s.sendInterrupted,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, s.newDriver(t, t.TempDir()), s.spec("vol-1.a_b"))
		})
	}
}

func sender(t *testing.T, d volume.Driver) volume.Sender {
	t.Helper()
	if !d.Capabilities().Send {
		t.Skip("does not send")
	}
	se, ok := d.(volume.Sender)
	if !ok {
		t.Fatal("the driver says it sends")
	}
	return se
}

var socketLine = regexp.MustCompile(`(?m)^"(sub/)?sock" .*\n`)

// sent is a description without sockets, which no tar holds.
func sent(t *testing.T, dir string) string {
	t.Helper()
	return socketLine.ReplaceAllString(Describe(t, dir), "")
}

func stream(t *testing.T, se volume.Sender, v volume.Spec, snapshot, since string) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, se.Send(t.Context(), v, snapshot, since, &b))
	return b.Bytes()
}

func receive(t *testing.T, se volume.Sender, v volume.Spec, snapshot, since string, b []byte) {
	t.Helper()
	made, err := se.Receive(t.Context(), v, snapshot, since, bytes.NewReader(b))
	must(t, err)
	if made.Method != volume.MethodStream {
		t.Errorf("method %q", made.Method)
	}
}

// change does to a Sample what a stream of changes has to tell.
func change(t *testing.T, path string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(path, s) }
	write(t, p("sub/many7"), []byte("changed"))
	must(t, os.Remove(p("sub/many8")))
	must(t, os.Rename(p("sub/many9"), p("renamed")))
	must(t, os.Rename(p("empty"), p("sub/empty")))
	must(t, os.Symlink("../new", p("sub/newlink")))
	must(t, os.Link(p("fifo"), p("sub/fifo2")))
	must(t, unix.Chmod(p("hard"), 0o600))
	must(t, unix.Removexattr(p("sub"), "user.dir"))
	must(t, unix.Setxattr(p("sub"), "user.new", []byte("n"), 0))
	must(t, os.Truncate(p("sparse"), 1<<20))
	f, err := os.OpenFile(p("sub/many49"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(strings.Repeat("more", 50000))
	must(t, errors.Join(err, f.Close()))
}

func (s suite) send(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := sender(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	one := sent(t, path)
	keep(t, sn, v, "first")
	change(t, path)
	b := stream(t, se, v, "first", "")
	Same(t, "the volume after it was sent", sent(t, sn.SnapshotPath(v, "first")), one)
	to := s.spec("there")
	toPath := use(t, d, to)
	write(t, filepath.Join(toPath, "other"), []byte("stays"))
	was := Describe(t, toPath)
	receive(t, se, to, "got", "", b)
	Same(t, "received", sent(t, sn.SnapshotPath(to, "got")), one)
	Same(t, "the data beside it", Describe(t, toPath), was)
	if _, err := se.Receive(t.Context(), to, "got", "", bytes.NewReader(b)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	must(t, d.Unmount(t.Context(), to))
	_, err := sn.Rollback(t.Context(), to, "got", "kept")
	must(t, err)
	must(t, d.Mount(t.Context(), to))
	Same(t, "rolled back to what was received", sent(t, toPath), one)
	write(t, filepath.Join(toPath, "writable"), nil)
	must(t, sn.RemoveSnapshot(t.Context(), to, "got"))
}

func (s suite) sendPresent(t *testing.T, d volume.Driver, v volume.Spec) {
	se := sender(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	one := sent(t, path)
	b := stream(t, se, v, "", "")
	to := s.spec("there")
	toPath := use(t, d, to)
	receive(t, se, to, "", "", b)
	Same(t, "received", sent(t, toPath), one)
	write(t, filepath.Join(toPath, "writable"), nil)
	must(t, d.Unmount(t.Context(), to))
	must(t, d.Mount(t.Context(), to))
	must(t, d.Unmount(t.Context(), to))
	must(t, d.Remove(t.Context(), to))
	must(t, d.Create(t.Context(), to))
}

func changes(t *testing.T, d volume.Driver) volume.Sender {
	t.Helper()
	se := sender(t, d)
	if !d.Capabilities().Incremental {
		t.Skip("sends no changes")
	}
	return se
}

func (s suite) sendChanges(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := changes(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	write(t, filepath.Join(path, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<18)) // 4 MiB that need not be sent again
	keep(t, sn, v, "first")
	change(t, path)
	keep(t, sn, v, "second")
	write(t, filepath.Join(path, "third"), []byte("3"))
	keep(t, sn, v, "third")
	to := s.spec("there")
	toPath := use(t, d, to)
	full := stream(t, se, v, "first", "")
	receive(t, se, to, "first", "", full)
	for i, next := range []string{"second", "third"} {
		since := []string{"first", "second"}[i]
		b := stream(t, se, v, next, since)
		if len(b) > len(full)/2 {
			t.Errorf("%s: %d bytes, all are %d", next, len(b), len(full))
		}
		receive(t, se, to, next, since, b)
		Same(t, next, Describe(t, sn.SnapshotPath(to, next)), Describe(t, sn.SnapshotPath(v, next)))
	}
	Same(t, "first", Describe(t, sn.SnapshotPath(to, "first")), Describe(t, sn.SnapshotPath(v, "first")))
	// The present state too can be told by its changes.
	at := s.spec("present")
	atPath := use(t, d, at)
	receive(t, se, at, "third", "", stream(t, se, v, "third", ""))
	write(t, filepath.Join(path, "last"), []byte("4"))
	receive(t, se, at, "", "third", stream(t, se, v, "", "third"))
	Same(t, "present", Describe(t, atPath), Describe(t, path))
	write(t, filepath.Join(atPath, "writable"), nil)
	if es, err := os.ReadDir(toPath); err != nil || len(es) != 0 {
		t.Errorf("the data beside it: %v, %v", es, err)
	}
}

// What was received can be gone on with and be sent back.
func (s suite) sendBackwards(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := changes(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	keep(t, sn, v, "first")
	to, third := s.spec("there"), s.spec("third")
	toPath := use(t, d, to)
	use(t, d, third)
	receive(t, se, to, "first", "", stream(t, se, v, "first", ""))
	receive(t, se, third, "first", "", stream(t, se, to, "first", ""))
	must(t, d.Unmount(t.Context(), to))
	_, err := sn.Rollback(t.Context(), to, "first", "empty")
	must(t, err)
	must(t, d.Mount(t.Context(), to))
	change(t, toPath)
	keep(t, sn, to, "second")
	b := stream(t, se, to, "second", "first")
	for _, at := range []volume.Spec{v, third} {
		receive(t, se, at, "second", "first", b)
		Same(t, "second", Describe(t, sn.SnapshotPath(at, "second")), Describe(t, toPath))
	}
}

func (s suite) receiveTar(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := sender(t, d), snapshotter(t, d)
	dir := t.TempDir()
	Sample(t, dir, "tar")
	var b bytes.Buffer
	must(t, archive.Write(t.Context(), dir, &b))
	path := use(t, d, v)
	receive(t, se, v, "got", "", b.Bytes())
	receive(t, se, v, "", "", b.Bytes())
	Same(t, "snapshot", Describe(t, sn.SnapshotPath(v, "got")), sent(t, dir))
	Same(t, "data", Describe(t, path), sent(t, dir))
}

// A stream that ends early, or is damaged, leaves the volume as it is.
func (s suite) receiveCutOff(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := sender(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	keep(t, sn, v, "first")
	change(t, path)
	keep(t, sn, v, "second")
	two := Describe(t, path)
	one := Describe(t, sn.SnapshotPath(v, "first"))
	type streamOf struct {
		since string
		b     []byte
	}
	streams := []streamOf{{"", stream(t, se, v, "second", "")}}
	if d.Capabilities().Incremental {
		streams = append(streams, streamOf{"first", stream(t, se, v, "second", "first")})
	}
	for _, st := range streams {
		for _, n := range []int{0, 5, 20, len(st.b) / 3, len(st.b) / 2, len(st.b) * 9 / 10} {
			what := fmt.Sprintf("%d of %d since %q", n, len(st.b), st.since)
			_, err := se.Receive(t.Context(), v, "got", st.since, bytes.NewReader(st.b[:n]))
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %v", what, err)
			}
			if _, err := os.Lstat(sn.SnapshotPath(v, "got")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: it is there: %v", what, err)
			}
			es, err := os.ReadDir(filepath.Dir(sn.SnapshotPath(v, "got")))
			if err != nil || len(es) != 2 {
				t.Errorf("%s: left: %v, %v", what, es, err)
			}
		}
		Same(t, "the volume", Describe(t, path), two)
		Same(t, "its first snapshot", Describe(t, sn.SnapshotPath(v, "first")), one)
		receive(t, se, v, "got", st.since, st.b)
		Same(t, "all of it", sent(t, sn.SnapshotPath(v, "got")), sent(t, path))
		must(t, sn.RemoveSnapshot(t.Context(), v, "got"))
	}
}

// A stream cannot leave its root.
func (s suite) receiveHostile(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := sender(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	want := Describe(t, path)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "precious"), []byte("p"))
	before := Describe(t, outside)
	for name, b := range hostile(t, outside) {
		if _, err := se.Receive(t.Context(), v, "got", "", bytes.NewReader(b)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(sn.SnapshotPath(v, "got")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it is there: %v", name, err)
		}
	}
	Same(t, "outside", Describe(t, outside), before)
	Same(t, "the volume", Describe(t, path), want)
}

func (s suite) receiveRefused(t *testing.T, d volume.Driver, v volume.Spec) {
	se, sn := sender(t, d), snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	keep(t, sn, v, "first")
	if err := se.Send(t.Context(), v, "never-was", "", &bytes.Buffer{}); err == nil {
		t.Error("sent what is not there")
	}
	if !d.Capabilities().Incremental {
		if err := se.Send(t.Context(), v, "first", "first", &bytes.Buffer{}); !errdefs.IsNotImplemented(err) {
			t.Errorf("send changes: %v", err)
		}
		if _, err := se.Receive(t.Context(), v, "got", "first", &bytes.Buffer{}); !errdefs.IsNotImplemented(err) {
			t.Errorf("receive changes: %v", err)
		}
		return
	}
	change(t, path)
	keep(t, sn, v, "second")
	b := stream(t, se, v, "second", "first")
	to := s.spec("there")
	use(t, d, to)
	keep(t, sn, to, "first") // of that name only
	if _, err := se.Receive(t.Context(), to, "got", "first", bytes.NewReader(b)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("changes to something else: %v", err)
	}
	if _, err := se.Receive(t.Context(), to, "got", "", bytes.NewReader(b)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("changes to nothing: %v", err)
	}
	if _, err := se.Receive(t.Context(), to, "got", "first", bytes.NewReader(stream(t, se, v, "second", ""))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no changes: %v", err)
	}
	if es, err := os.ReadDir(filepath.Dir(sn.SnapshotPath(to, "got"))); err != nil || len(es) != 1 {
		t.Errorf("left: %v, %v", es, err)
	}
	receive(t, se, to, "stranger", "", stream(t, se, v, "first", ""))
	if err := se.Send(t.Context(), to, "first", "stranger", &bytes.Buffer{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("changes between strangers: %v", err)
	}
}

type fullPipe struct{ left int }

var errFull = errors.New("nobody reads on")

// Write implements io.Writer.
func (p *fullPipe) Write(b []byte) (int, error) {
	if p.left -= len(b); p.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

// Who reads may go; who sends may be told to stop.
func (s suite) sendInterrupted(t *testing.T, d volume.Driver, v volume.Spec) {
	se := sender(t, d)
	path := use(t, d, v)
	write(t, filepath.Join(path, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<19))
	want := Describe(t, path)
	if err := se.Send(t.Context(), v, "", "", &fullPipe{1 << 20}); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := se.Send(ctx, v, "", "", &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := se.Receive(ctx, v, "got", "", bytes.NewReader(stream(t, se, v, "", ""))); !errors.Is(err, context.Canceled) {
		t.Errorf("receive: %v", err)
	}
	Same(t, "the volume", Describe(t, path), want)
	es, err := os.ReadDir(filepath.Join(filepath.Dir(path), "_snapshots"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(es) != 0 {
		t.Errorf("left: %v, %v", es, err)
	}
}
