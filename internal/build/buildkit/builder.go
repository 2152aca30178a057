package buildkit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	snapshot "github.com/moby/buildkit/snapshot/containerd"
	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// Networks gives each build step a network namespace.
type Networks interface {
	// Join makes a namespace on the default bridge and returns its path.
	Join(ctx context.Context, id, hostname string) (path string, err error)
	Leave(ctx context.Context, id string) error
}

// Config says what the builder stands on; all fields are required but
// CgroupParent.
type Config struct {
	Root         string // cache database, step bundles
	Namespace    string // in containerd's metadata
	Snapshotter  string
	Client       *client.Client // containerd's parts in this process
	Images       images.Store   // takes the names of what was built
	Dangling     string         // begins the names of images without one
	Hosts        docker.RegistryHosts
	Networks     Networks
	Ledger       Ledger // what is told of the cache while BuildKit sleeps
	Runc         string
	CgroupParent string
	Version      string
	Log          *slog.Logger
}

// Builder is BuildKit in this process.
type Builder struct {
	cfg Config

	mu     sync.Mutex // guards opened and closed; held while opening
	opened *opened
	closed bool

	running sync.WaitGroup // connections and builds; added to under mu
	builds  builds
	uploads uploads

	counted *counted
	chains  *imageChains
	touched chan struct{} // holds one while the cache may differ from what was counted
}

// opened are BuildKit's parts once they run.
type opened struct {
	control  *control.Controller
	worker   *imageWorker
	sessions *session.Manager
	server   *grpc.Server
	client   *bkclient.Client
	ctx      context.Context
	stop     context.CancelFunc
	lent     *lentNamespaces
	log      *slog.Logger
}

var errClosed = errors.New("the daemon is shutting down")

// New returns a Builder. It clears away what steps of a killed daemon left.
func New(ctx context.Context, cfg Config) (*Builder, error) {
	b := &Builder{
		cfg: cfg, builds: builds{cancel: map[string]context.CancelFunc{}}, touched: make(chan struct{}, 1),
		chains: &imageChains{
			images: inNamespace{cfg.Images, cfg.Namespace},
			blobs:  snapshot.NewContentStore(cfg.Client.ContentStore(), cfg.Namespace),
		},
	}
	var err error
	if b.counted, err = newCounted(cfg.Ledger); err != nil {
		cfg.Log.Warn("what was known of the build cache is lost", logkey.Err, err)
	}
	return b, b.sweep(ctx)
}

func (b *Builder) executorDir() string { return filepath.Join(b.cfg.Root, "executor") }

// change is use for what may change the cache.
func (b *Builder) change(ctx context.Context) (_ *opened, done func(), err error) {
	o, end, err := b.use(ctx)
	if err != nil {
		return nil, nil, err
	}
	return o, func() { b.touch(); end() }, nil
}

// use returns the running BuildKit, opening it if need be. The caller calls done
// when it no longer uses it.
func (b *Builder) use(ctx context.Context) (_ *opened, done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, errClosed
	}
	if b.opened == nil {
		if b.opened, err = b.open(context.WithoutCancel(ctx)); err != nil {
			return nil, nil, fmt.Errorf("open BuildKit: %w", err)
		}
	}
	b.running.Add(1)
	return b.opened, b.running.Done, nil
}

// used tells whether there can be a cache: without having built there is none,
// and asking must not open BuildKit.
func (b *Builder) used() bool {
	_, err := os.Stat(filepath.Join(b.cfg.Root, cacheDB))
	return err == nil
}

// Awake tells whether the builder is in memory, so that asking it costs little.
func (b *Builder) Awake() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened != nil
}

// ServeSession serves a client's session on a connection that was taken over,
// until either end closes it.
func (b *Builder) ServeSession(ctx context.Context, conn net.Conn, headers http.Header) error {
	o, done, err := b.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer o.atStop(cancel)()
	return o.sessions.HandleConn(ctx, conn, headers)
}

// ServeControl serves BuildKit's control service on a connection that was
// taken over, until either end closes it.
func (b *Builder) ServeControl(ctx context.Context, conn net.Conn) error {
	o, done, err := b.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	return o.serve(ctx, conn)
}

// atStop has f called when BuildKit is closed, unless the function it returns is
// called before.
func (o *opened) atStop(f func()) func() bool { return context.AfterFunc(o.ctx, f) }

// serve answers on one connection. It returns when that is closed.
func (o *opened) serve(ctx context.Context, conn net.Conn) error {
	l := &single{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- &singleConn{Conn: conn, l: l}
	defer o.atStop(func() { _ = conn.Close() })() // ends Serve
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: o.server, Protocols: &protocols,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: prefaceLimit,
	}
	if err := srv.Serve(l); !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve BuildKit's control: %w", err)
	}
	return nil
}

// lastWord bounds the wait for BuildKit's last word on its cache.
const lastWord = 20 * time.Second

// prefaceLimit bounds the wait for a client's first bytes.
const prefaceLimit = 30 * time.Second

// single is a listener of one connection: it accepts that, and ends with it.
type single struct {
	conn   chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *single) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (*single) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

type singleConn struct {
	net.Conn
	l *single
}

// Close implements net.Conn.
func (c *singleConn) Close() error { return errors.Join(c.Conn.Close(), c.l.Close()) }

// Close ends builds and lets go of the cache.
func (b *Builder) Close() error {
	b.mu.Lock()
	b.closed = true
	o := b.opened
	b.mu.Unlock()
	if o == nil {
		return nil
	}
	b.builds.cancelAll()
	o.stop()
	o.server.Stop()
	err := o.client.Close()
	b.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastWord)
	defer cancel()
	if perr := b.putDown(ctx, o, true); perr != nil { // the next daemon asks again
		b.cfg.Log.Warn("build cache not counted", logkey.Err, perr)
	}
	err = errors.Join(err, o.control.Close())
	o.lent.close(b.cfg.Log)
	b.dropCgroups()
	if err != nil {
		return fmt.Errorf("close BuildKit: %w", err)
	}
	b.cfg.Log.Debug("BuildKit closed", logkey.Path, b.cfg.Root)
	return nil
}
