package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/swarmkit/v2/ca"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/clock"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func authority(t testing.TB) ca.RootCA {
	t.Helper()
	root, err := ca.CreateRootCA("swarm-ca")
	must(t, err)
	return root
}

// identity is a node's, signed by root.
func identity(t testing.TB, root ca.RootCA, id, role, org string) *Identity {
	t.Helper()
	dir := t.TempDir()
	paths := ca.NewConfigPaths(dir)
	must(t, ca.SaveRootCA(ca.RootCA{Certs: root.Certs, Digest: root.Digest, Pool: root.Pool}, paths.RootCA))
	_, _, err := root.IssueAndSaveNewCertificates(ca.NewKeyReadWriter(paths.Node, nil, nil), id, role, org)
	must(t, err)
	return NewIdentity(dir, func(context.Context) ([]byte, error) { return nil, errors.New("not locked") })
}

// swarm are nodes in one process.
type swarm struct {
	t    testing.TB
	root ca.RootCA

	mu      sync.Mutex // guards the fields below
	members []Member
	taken   []string
}

// node makes one that serves h; manager: it knows all members.
func (s *swarm) node(id string, manager bool, h http.Handler) *Peers {
	s.t.Helper()
	role := ca.WorkerRole
	if manager {
		role = ca.ManagerRole
	}
	return s.start(id, manager, identity(s.t, s.root, id, role, "the-swarm"), h)
}

func (s *swarm) start(id string, manager bool, i *Identity, h http.Handler) *Peers {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	p := New(Deps{
		Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Identity: i, Self: func() string { return id }, Images: h,
		Known: func(context.Context) ([]Member, error) {
			if !manager {
				return nil, errors.New("not a manager")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.members), nil
		},
		Managers: func() []Member {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.members[:1]
		},
		Take: func(_ context.Context, name string, d digest.Digest) error {
			if id == "bad" {
				return errors.New("no room")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.taken = append(s.taken, id+" "+name+"@"+d.String()[:9])
			return nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.serve(ctx, l) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, Member{ID: id, Addr: l.Addr().String()})
	return p
}

func (s *swarm) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = slices.DeleteFunc(s.members, func(m Member) bool { return m.ID == id })
}

func (s *swarm) member(id string) Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[slices.IndexFunc(s.members, func(m Member) bool { return m.ID == id })]
}

// having serves blobs and one image; broken cuts what it sends, after so many bytes.
type having struct {
	blobs  map[digest.Digest][]byte
	image  digest.Digest
	named  string
	broken atomic.Int32
	served atomic.Int32
}

func (h *having) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := digest.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	if strings.Contains(r.URL.Path, "/manifests/") && h.image != "" {
		d = h.image
	}
	b, ok := h.blobs[d]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", d.String())
	if h.named != "" {
		w.Header().Set(NamedHeader, h.named)
	}
	if r.Method == http.MethodGet {
		h.served.Add(1)
	}
	if n := int(h.broken.Load()); n > 0 && r.Method == http.MethodGet {
		w = &cut{ResponseWriter: w, left: n}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// cut ends a connection in the middle.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func named(t testing.TB, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	must(t, err)
	return reference.TagNameOnly(n)
}

func some(seed byte, n int) (digest.Digest, []byte) {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7+i>>9)
	}
	return digest.FromBytes(b), b
}

// A transfer goes on at the next node where one stopped, and parts come from
// several nodes.
func TestFetchGoesOnElsewhere(t *testing.T) {
	s := &swarm{t: t, root: authority(t)}
	d, body := some(1, 3<<20)
	nodes := map[string]*having{}
	for id, broken := range map[string]int32{"m": 1 << 20, "w1": 700_000, "w2": 0} {
		nodes[id] = &having{blobs: map[digest.Digest][]byte{d: body}, image: d}
		nodes[id].broken.Store(broken)
	}
	s.node("m", true, nodes["m"])
	s.node("w1", false, nodes["w1"])
	s.node("w2", false, nodes["w2"])
	asker := s.node("w3", false, http.NotFoundHandler())
	img, err := asker.Find(t.Context(), named(t, "app"))
	must(t, err)
	if img.Target.Digest != d || len(img.from) != 3 {
		t.Fatalf("found %v at %v", img.Target, img.from)
	}
	for range 3 {
		r, err := img.Fetch(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(body))})
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, body) {
			t.Error("something else came")
		}
	}
	for id, n := range nodes {
		if n.served.Load() == 0 {
			t.Errorf("%s was not asked", id)
		}
	}
	// All that have it break off: an error, and no end of trying.
	for _, n := range nodes {
		n.broken.Store(1000)
	}
	r, err := img.Fetch(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(body))})
	must(t, err)
	if got, err := io.ReadAll(r); err == nil || bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// A node that says nothing more is left for the next one.
func TestFetchLeavesAStalledNode(t *testing.T) {
	t.Parallel()
	s := &swarm{t: t, root: authority(t)}
	d, body := some(2, 1<<20)
	hang := make(chan struct{})
	stalled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Content-Digest", d.String())
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(body[:1000])
			w.(http.Flusher).Flush()
			<-hang
		}
	})
	s.node("m", true, http.NotFoundHandler())
	s.node("w1", false, stalled)
	s.node("w2", false, &having{blobs: map[digest.Digest][]byte{d: body}, image: d})
	t.Cleanup(func() { close(hang) })
	img, err := s.node("w3", false, http.NotFoundHandler()).Find(t.Context(), named(t, "app"))
	must(t, err)
	img.from = []Member{s.member("w1"), s.member("w2")}
	r, err := img.Fetch(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(body))})
	must(t, err)
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestFindTakesWhatWasNamedLast(t *testing.T) {
	s := &swarm{t: t, root: authority(t)}
	older, a := some(3, 100)
	newer, b := some(4, 100)
	s.node("m", true, &having{blobs: map[digest.Digest][]byte{older: a}, image: older, named: "2026-01-01T00:00:00Z"})
	s.node("w1", false, &having{blobs: map[digest.Digest][]byte{newer: b}, image: newer, named: "2026-01-01T00:00:00.5Z"})
	s.node("w2", false, &having{blobs: map[digest.Digest][]byte{older: a}, image: older})
	asker := s.node("w3", false, http.NotFoundHandler())
	img, err := asker.Find(t.Context(), named(t, "app"))
	must(t, err)
	if img.Target.Digest != newer || len(img.from) != 1 || img.from[0].ID != "w1" {
		t.Errorf("found %v at %v", img.Target, img.from)
	}
	// A digest is only what it is.
	exact, err := reference.WithDigest(named(t, "app"), older)
	must(t, err)
	if img, err = asker.Find(t.Context(), exact); err != nil || img.Target.Digest != older || len(img.from) != 2 {
		t.Errorf("found %v, %v", img, err)
	}
	third, _ := some(5, 100)
	exact, err = reference.WithDigest(named(t, "app"), third)
	must(t, err)
	if _, err := asker.Find(t.Context(), exact); !errdefs.IsNotFound(err) {
		t.Errorf("found what nobody has: %v", err)
	}
}

func TestPush(t *testing.T) {
	t.Parallel()
	s := &swarm{t: t, root: authority(t)}
	m := s.node("m", true, http.NotFoundHandler())
	w1 := s.node("w1", false, http.NotFoundHandler())
	s.node("w2", false, http.NotFoundHandler())
	d, _ := some(1, 10)
	var told []string
	tell := func(m Member, err error) { told = append(told, fmt.Sprint(m.ID, " ", err)) }
	must(t, m.Push(t.Context(), "docker.io/cluster/app:1", d, tell))
	slices.Sort(s.taken)
	want := "w1 docker.io/cluster/app:1@" + d.String()[:9]
	if len(s.taken) != 2 || s.taken[0] != want || len(told) != 2 {
		t.Errorf("taken %v, told %v", s.taken, told)
	}
	// What one node cannot, the others do all the same.
	s.node("bad", false, http.NotFoundHandler())
	m.mu.Lock()
	m.asked = time.Time{}
	m.mu.Unlock()
	told = nil
	err := m.Push(t.Context(), "docker.io/cluster/app:2", d, tell)
	if err == nil || err.Error() != "1 of 3 other nodes did not get docker.io/cluster/app:2" || !slices.Contains(told, "bad no room") || len(s.taken) != 4 {
		t.Errorf("%v, taken %v, told %v", err, s.taken, told)
	}
	// A worker has no say.
	if err := w1.push(t.Context(), s.member("w2"), "docker.io/cluster/app:3", d); err == nil || !strings.Contains(err.Error(), "only managers may push") {
		t.Errorf("a worker pushes: %v", err)
	}
}

// reach asks a member as somebody who has this identity.
func reach(t testing.TB, who *Identity, as string, m Member) error {
	t.Helper()
	p := New(Deps{Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Identity: who, Self: func() string { return as }})
	defer p.forget()
	resp, err := p.do(t.Context(), m, http.MethodGet, "/v2/", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestOnlyMembersAreAnswered(t *testing.T) {
	t.Parallel()
	s := &swarm{t: t, root: authority(t)}
	var asked atomic.Int32
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	s.node("m", true, count)
	worker := s.node("w1", false, count)
	w2 := identity(t, s.root, "w2", ca.WorkerRole, "the-swarm")
	s.start("w2", false, w2, count)
	for _, to := range []string{"m", "w1"} {
		if err := reach(t, w2, "w2", s.member(to)); err != nil {
			t.Fatalf("a member is refused by %s: %v", to, err)
		}
	}
	asked.Store(0)
	stranger := identity(t, authority(t), "w2", ca.WorkerRole, "the-swarm")
	stranger.paths.RootCA = w2.paths.RootCA // trusts us, is not trusted
	s.remove("w2")
	worker.mu.Lock()
	worker.asked = time.Time{} // what it knew is old
	worker.mu.Unlock()
	for name, who := range map[string]*Identity{
		"another authority":  stranger,
		"another swarm":      identity(t, s.root, "w2", ca.WorkerRole, "other-swarm"),
		"not a node":         identity(t, s.root, "w2", "swarm-ca", "the-swarm"),
		"no member any more": w2,
	} {
		for _, to := range []string{"m", "w1"} {
			if name == "no member any more" && to == "m" {
				// The manager's list is at most membersFresh old.
				deadline := time.Now().Add(2 * membersFresh)
				for reach(t, who, "w2", s.member(to)) == nil && time.Now().Before(deadline) {
					time.Sleep(100 * time.Millisecond)
				}
				asked.Store(0)
			}
			if err := reach(t, who, "w2", s.member(to)); err == nil {
				t.Errorf("%s: %s answers", name, to)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests of strangers were served", n)
	}
	// And nobody else is taken for a member.
	wrong := s.member("w1")
	wrong.ID = "w9"
	if err := reach(t, identity(t, s.root, "m", ca.ManagerRole, "the-swarm"), "m", wrong); err == nil || !strings.Contains(err.Error(), "in the place of w9") {
		t.Errorf("a node in another's place: %v", err)
	}
}

// A certificate that was renewed is used at once, and a locked key is unlocked.
func TestRenewedAndLockedIdentity(t *testing.T) {
	root := authority(t)
	dir := t.TempDir()
	paths := ca.NewConfigPaths(dir)
	must(t, ca.SaveRootCA(root, paths.RootCA))
	kek := []byte("0123456789abcdef0123456789abcdef")
	issue := func(id string) {
		_, _, err := root.IssueAndSaveNewCertificates(ca.NewKeyReadWriter(paths.Node, kek, nil), id, ca.ManagerRole, "o")
		must(t, err)
	}
	issue("a")
	i := NewIdentity(dir, func(context.Context) ([]byte, error) { return kek, nil })
	c, err := i.load(t.Context())
	must(t, err)
	if c.id != "a" || c.org != "o" {
		t.Errorf("credentials of %s in %s", c.id, c.org)
	}
	issue("b")
	if c, err = i.load(t.Context()); err != nil || c.id != "b" {
		t.Errorf("after renewal: %v, %v", c, err)
	}
	j := NewIdentity(filepath.Join(dir, "none"), nil)
	if _, err := j.load(t.Context()); err == nil {
		t.Error("no files, and credentials")
	}
}

// Whatever a client sends that has no certificate of the swarm, nothing of it
// gets to a handler.
func FuzzStrangersBytes(f *testing.F) {
	f.Add([]byte("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3})
	f.Add([]byte{})
	i := identity(f, authority(f), "w", ca.WorkerRole, "o")
	var hello bytes.Buffer
	client := tls.Client(recorder{&hello}, &tls.Config{InsecureSkipVerify: true})
	_ = client.Handshake() // only its first message is wanted
	f.Add(hello.Bytes())
	p := New(Deps{
		Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Identity: i, Self: func() string { return "w" },
		Known:    func(context.Context) ([]Member, error) { return nil, errors.New("none") },
		Images:   http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a stranger was served") }),
		Managers: func() []Member { return nil },
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		l := &one{conns: make(chan net.Conn, 1)}
		l.conns <- ours
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.serve(ctx, l) }()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_ = theirs.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = theirs.Write(b)
		_ = theirs.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// recorder keeps what is written and ends reads.
type recorder struct{ w io.Writer }

func (r recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r recorder) Write(b []byte) (int, error)      { return r.w.Write(b) }
func (r recorder) Close() error                     { return nil }
func (r recorder) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r recorder) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r recorder) SetDeadline(time.Time) error      { return nil }
func (r recorder) SetReadDeadline(time.Time) error  { return nil }
func (r recorder) SetWriteDeadline(time.Time) error { return nil }

// one is a listener of one connection.
type one struct {
	conns chan net.Conn
	once  sync.Once
}

func (o *one) Accept() (net.Conn, error) {
	c, ok := <-o.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (o *one) Close() error {
	o.once.Do(func() { close(o.conns) })
	return nil
}

func (o *one) Addr() net.Addr { return &net.TCPAddr{} }
