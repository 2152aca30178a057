package ctrd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/base/diskspace"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// Namespace is the only namespace used in containerd's metadata.
	Namespace = "holdfast"
	// Snapshotter is the name of the only snapshotter.
	Snapshotter = "overlayfs"

	lockTimeout = time.Second
)

// Config says where the engine lives and which programs it uses. All fields
// but RootfsDir and SystemdCgroup are required.
type Config struct {
	Root          string // content, metadata, snapshots
	State         string // bundles, fifos, sockets: gone after a reboot
	RootfsDir     string // where writable layers are mounted, one directory per container; default Root/rootfs
	TempDir       string // for short-lived mounts; default the system's
	ShimPath      string
	RuncPath      string
	SystemdCgroup bool
	Log           *slog.Logger
}

// Server is the embedded engine.
type Server struct {
	cfg      Config
	bolt     *bolt.DB
	meta     *metadata.DB
	events   *exchange.Exchange
	snaps    snapshots.Snapshotter // through the metadata store
	snapMeta *storage.MetaStore
	closers  []func() error
	client   *client.Client
	collect  *collector
	runtime  *Runtime
	rootfs   *Rootfs
	beside   []*Runtime
}

// Start opens the stores under cfg.Root and adopts the shims that an earlier
// engine with the same cfg.State left running.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	bridgeLogs(ctx, cfg.Log)
	if cfg.RootfsDir == "" {
		cfg.RootfsDir = filepath.Join(cfg.Root, "rootfs")
	}
	if cfg.TempDir != "" {
		if err := mount.SetTempMountLocation(cfg.TempDir); err != nil {
			return nil, fmt.Errorf("set place of short-lived mounts: %w", err)
		}
	}
	ctx = namespaces.WithNamespace(ctx, Namespace)
	s := &Server{cfg: cfg, events: exchange.NewExchange()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{cfg.Root, 0o700},
		{cfg.State, 0o711},
		{cfg.RootfsDir, 0o700}, // its paths are in the mount table, and images have set-user-ID programs
	} {
		if err := makeDir(d.path, d.mode); err != nil {
			return nil, err
		}
	}
	if err := s.openStores(ctx); err != nil {
		return nil, err
	}
	if err := s.openTasks(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) stateDir(name string) string { return filepath.Join(s.cfg.State, name) }

func (s *Server) openStores(ctx context.Context) error {
	content, err := local.NewStore(filepath.Join(s.cfg.Root, "content"))
	if err != nil {
		return fmt.Errorf("open content store: %w", err)
	}
	// Features that change what a layer looks like on disk stay off, whatever the
	// kernel's defaults are: diff and commit read upper directories directly.
	snapRoot := filepath.Join(s.cfg.Root, "snapshots")
	if err := os.MkdirAll(snapRoot, 0o700); err != nil {
		return fmt.Errorf("make directory of snapshots: %w", err)
	}
	snapMeta := filepath.Join(snapRoot, "metadata.db")
	ms, err := storage.NewMetaStore(snapMeta)
	if err != nil {
		return fmt.Errorf("open metadata of snapshots: %w", err)
	}
	snapshotter, err := newSnapshotter(snapRoot, ms)
	if err != nil {
		return err
	}
	s.snapMeta = ms
	s.closers = append(s.closers, snapshotter.Close)
	if err := sweepSnapshots(ctx, snapshotter, snapRoot); err != nil {
		return err
	}

	s.bolt, err = bolt.Open(filepath.Join(s.cfg.Root, "metadata.db"), 0o600, &bolt.Options{
		Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return fmt.Errorf("open engine metadata: %w", err)
	}
	s.closers = append(s.closers, s.bolt.Close)
	s.meta = metadata.NewDB(s.bolt, content, map[string]snapshots.Snapshotter{Snapshotter: snapshotter},
		metadata.WithEventsPublisher(s.events))
	if err := s.meta.Init(ctx); err != nil {
		return fmt.Errorf("prepare engine metadata: %w", err)
	}
	s.snaps = s.meta.Snapshotter(Snapshotter)
	if err := ensureNamespace(ctx, s.meta); err != nil {
		return err
	}
	s.collect = newCollector(s.meta, s.cfg.Log)
	s.collect.first = s.Sweep
	s.collect.room = func() error { return errors.Join(reserveBolt(s.bolt), reserveSnapshots(ctx, ms, snapMeta)) }
	if err := s.collect.room(); err != nil {
		return err
	}

	cs := s.meta.ContentStore()
	s.client, err = client.New("", client.WithDefaultNamespace(Namespace), client.WithServices(
		client.WithContentStore(cs),
		client.WithImageStore(collectedImages{metadata.NewImageStore(s.meta), s.collect}),
		client.WithLeasesService(collectedLeases{metadata.NewLeaseManager(s.meta), s.collect}),
		client.WithSnapshotters(map[string]snapshots.Snapshotter{Snapshotter: s.snaps}),
		client.WithDiffService(differ{walking.NewWalkingDiff(cs), apply.NewFileSystemApplier(cs)}),
		client.WithEventService(s.events),
		client.WithNamespaceService(namespaceStore{s.meta}),
		client.WithContainerStore(metadata.NewContainerStore(s.meta)),
	))
	if err != nil {
		return fmt.Errorf("join engine parts: %w", err)
	}
	s.collect.start(ctx)
	s.rootfs = &Rootfs{snaps: s.snaps, collect: s.Collect, dir: s.cfg.RootfsDir}
	return s.rootfs.sweepInit(ctx)
}

// metadataReserve is the room that containerd's databases always have for more,
// so that layers can be removed on a full disk.
const metadataReserve = 1 << 20

func reserveBolt(b *bolt.DB) error {
	return b.View(func(tx *bolt.Tx) error { return diskspace.Reserve(b.Path(), tx.Size()+metadataReserve) })
}

func reserveSnapshots(ctx context.Context, ms *storage.MetaStore, path string) error {
	_, t, err := ms.TransactionContext(ctx, false)
	if err != nil {
		return fmt.Errorf("read metadata of snapshots: %w", err)
	}
	defer func() { _ = t.Rollback() }() // it has read only
	if tx, ok := t.(*bolt.Tx); ok {
		return diskspace.Reserve(path, tx.Size()+metadataReserve)
	}
	return nil
}

// sweepSnapshots removes directories without a record: an engine that was killed
// between making a snapshot's directory and noting it leaves one whose number is
// given out again, and then no layer could be made any more.
func sweepSnapshots(ctx context.Context, s snapshots.Snapshotter, root string) error {
	c, ok := s.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	err := c.Cleanup(ctx)
	if errdefs.IsNotFound(err) { // no snapshot was ever noted: what is there must be empty
		dirs, gerr := filepath.Glob(filepath.Join(root, "snapshots", "*"))
		for _, dir := range dirs {
			for _, path := range []string{filepath.Join(dir, "fs"), filepath.Join(dir, "work"), dir} {
				if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
					return fmt.Errorf("snapshot without a record: %w", rerr)
				}
			}
		}
		err = gerr
	}
	if err != nil {
		return fmt.Errorf("remove directories of unfinished snapshots: %w", err)
	}
	return nil
}

// newSnapshotter opens the layers. The files of one that is removed stay until the
// end of the collection: containerd removes layers under a lock that each start of a
// container needs, and those of a large image take minutes.
func newSnapshotter(root string, ms *storage.MetaStore) (snapshots.Snapshotter, error) {
	s, err := overlay.NewSnapshotter(root, overlay.WithMetaStore(ms), overlay.WithMountOptions(overlayOptions()), overlay.AsynchronousRemove)
	if err != nil {
		return nil, fmt.Errorf("open overlay snapshotter: %w", err)
	}
	return s, nil
}

// overlayOptions turns off what changes the form of upper directories.
func overlayOptions() []string {
	opts := []string{"index=off"}
	for name, off := range map[string]string{"metacopy": "metacopy=off", "redirect_dir": "redirect_dir=nofollow"} {
		if v, err := os.ReadFile("/sys/module/overlay/parameters/" + name); err == nil {
			if on := strings.TrimSpace(string(v)); on == "Y" {
				opts = append(opts, off)
			}
		}
	}
	return opts
}

type differ struct {
	diff.Comparer
	diff.Applier
}

func (s *Server) openTasks(ctx context.Context) error {
	var err error
	if s.runtime, err = newRuntime(&s.cfg, s.cfg.State); err != nil {
		return err
	}
	return s.runtime.start(ctx)
}

// OpenTasks returns a Runtime beside that of containers, which knows nothing of
// their tasks nor they of its own. Nobody needs to read its events. It goes down
// with the engine.
func (s *Server) OpenTasks(ctx context.Context, name string) (*Runtime, error) {
	r, err := newRuntime(&s.cfg, s.stateDir(name))
	if err != nil {
		return nil, err
	}
	s.beside = append(s.beside, r)
	ends := r.queue.events(context.WithoutCancel(ctx))
	go func() { // until the queue is closed
		for range ends { //nolint:revive // who waits for a task asks for it
		}
	}()
	return r, r.start(ctx)
}

func makeDir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("make engine directory: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil { // an older one, or another umask
		return fmt.Errorf("set mode of engine directory: %w", err)
	}
	return nil
}

// Client returns containerd's client over the stores in this process.
func (s *Server) Client() *client.Client { return s.client }

// Runtime returns the task adapter.
func (s *Server) Runtime() *Runtime { return s.runtime }

// Rootfs returns the writable layers' adapter.
func (s *Server) Rootfs() *Rootfs { return s.rootfs }

// Collect removes content and snapshots that nothing refers to, now.
func (s *Server) Collect(ctx context.Context) error { return s.collect.now(ctx) }

// RuncVersion asks the runtime for its version.
func (s *Server) RuncVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, s.cfg.RuncPath, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask runc for its version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(line, "runc version "), nil
}

// Close lets go of everything; shims and their containers go on.
func (s *Server) Close() error {
	var errs []error
	for _, r := range append(s.beside, s.runtime) {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	if s.collect != nil {
		s.collect.close()
	}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

// collector removes unreferenced content and snapshots soon after something
// was deleted, and at once where a caller wants to wait for it.
type collector struct {
	meta *metadata.DB
	log  *slog.Logger
	dirt chan struct{}
	done chan struct{}
	stop context.CancelFunc
	room func() error // keeps space for the metadata of removals
	// first is the first collection: it finds what an engine that was killed had
	// taken off its records and not yet off the disk.
	first func(context.Context) error

	mu sync.Mutex // one collection at a time
}

// collectDelay gathers the deletions of one verb into one collection.
const collectDelay = 500 * time.Millisecond

func newCollector(meta *metadata.DB, log *slog.Logger) *collector {
	c := &collector{meta: meta, log: log, dirt: make(chan struct{}, 1), done: make(chan struct{})}
	meta.RegisterMutationCallback(func(dirty bool) {
		if dirty {
			select {
			case c.dirt <- struct{}{}:
			default:
			}
		}
	})
	c.dirt <- struct{}{} // what an earlier engine had no time for
	return c
}

func (c *collector) start(ctx context.Context) {
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	go c.run(ctx)
}

func (c *collector) run(ctx context.Context) {
	defer close(c.done)
	t := time.NewTimer(collectDelay)
	defer t.Stop()
	for do := c.first; ; do = c.now {
		select {
		case <-ctx.Done():
			return
		case <-c.dirt:
		}
		t.Reset(collectDelay)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("unreferenced layers not removed, will try after the next change", logkey.Err, err)
		}
	}
}

func (c *collector) now(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.meta.GarbageCollect(ctx)
	return errors.Join(err, c.room())
}

func (c *collector) close() {
	if c.stop == nil { // it never started
		return
	}
	c.stop()
	<-c.done
}
