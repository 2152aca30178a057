package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	bkclient "github.com/moby/buildkit/client"
	bkconfig "github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	snapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/winlayers"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// cacheDB is the file of the cache's keys; it exists once something was built.
const cacheDB = "cache.db"

// bundle is what open has made so far, for taking it apart again.
type bundle struct{ undo []func() error }

func (u *bundle) add(f func() error) { u.undo = append(u.undo, f) }

func (u *bundle) close() error {
	var errs []error
	for i := len(u.undo) - 1; i >= 0; i-- {
		errs = append(errs, u.undo[i]())
	}
	return errors.Join(errs...)
}

// open builds BuildKit from its parts, for as long as ctx goes on.
func (b *Builder) open(ctx context.Context) (_ *opened, err error) {
	var made bundle
	defer func() {
		if err != nil {
			err = errors.Join(err, made.close())
		}
	}()
	if err := os.MkdirAll(b.cfg.Root, 0o711); err != nil {
		return nil, err
	}
	if err := b.counted.opening(); errdefs.IsResourceExhausted(err) {
		b.cfg.Log.Warn("not noted that the build cache may change", logkey.Err, err) // a prune may be what makes room
	} else if err != nil {
		return nil, fmt.Errorf("note that the build cache may change: %w", err)
	}
	sayVersion()
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	lent := newLentNamespaces(b.cfg.Networks)
	opt, err := b.workerOpt(lent)
	if err != nil {
		return nil, err
	}
	inner, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, errors.Join(err, opt.MetadataStore.Close())
	}
	made.add(inner.Close)
	w := &imageWorker{Worker: inner, dangling: b.cfg.Dangling, root: b.cfg.Root, chains: b.chains}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, err
	}
	front, err := frontends(workers, b.cfg.Log)
	if err != nil {
		return nil, err
	}
	keys, err := bboltcachestorage.NewStore(filepath.Join(b.cfg.Root, cacheDB))
	if err != nil {
		return nil, err
	}
	made.add(keys.Close)
	history, err := boltutil.Open(filepath.Join(b.cfg.Root, "history.db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	made.add(history.Close)
	ctx, stop := context.WithCancel(ctx)
	made.add(func() error { stop(); return nil })
	ctrl, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends:        front,
		CacheManager:     solver.NewCacheManager(ctx, "local", keys, worker.NewCacheResultStorage(workers)),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"inline":   inlinecache.ResolveCacheExporterFunc(),
			"local":    localcache.ResolveCacheExporterFunc(sessions),
			"registry": registrycache.ResolveCacheExporterFunc(sessions, b.cfg.Hosts),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"local":    localcache.ResolveCacheImporterFunc(sessions),
			"registry": registrycache.ResolveCacheImporterFunc(sessions, w.ContentStore(), b.cfg.Hosts),
		},
		// As Docker: a build may use the host's network if its user asks for it.
		Entitlements:   []string{entitlements.EntitlementNetworkHost.String()},
		HistoryDB:      history,
		CacheStore:     keys,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
		// Clients send their traces whether or not somebody wants them.
		TraceCollector: noTraces{},
	})
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		// What errors carry goes to the client with them: the place in the Dockerfile.
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor))
	ctrl.Register(server)
	o := &opened{control: ctrl, worker: w, sessions: sessions, server: server, ctx: ctx, stop: stop, lent: lent, log: b.cfg.Log}
	if o.client, err = bkclient.New(ctx, "", bkclient.WithContextDialer(o.dial)); err != nil {
		return nil, fmt.Errorf("make a client of BuildKit: %w", err)
	}
	b.cfg.Log.Info("BuildKit opened", logkey.Path, b.cfg.Root)
	return o, nil
}

// noTraces is a collector that throws traces away.
type noTraces struct{}

// ExportSpans implements trace.SpanExporter.
func (noTraces) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }

// Shutdown implements trace.SpanExporter.
func (noTraces) Shutdown(context.Context) error { return nil }

// sayVersion lets BuildKit tell its version: it takes it from a variable that its
// own build sets.
func sayVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, m := range info.Deps {
		if m.Path == version.Package {
			version.Version = m.Version
		}
	}
}

// maxMessage is what one message of the control service may take: LLB
// definitions and provenance are bigger than gRPC's default of 4 MiB.
const maxMessage = 16 << 20

// dial connects the client in this process.
func (o *opened) dial(context.Context, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		if err := o.serve(o.ctx, theirs); err != nil { // ends with the connection, or with o.ctx
			o.log.Error("builds of the classic endpoint will fail", logkey.Err, err)
		}
	}()
	return ours, nil
}

func (b *Builder) workerOpt(lent *lentNamespaces) (base.WorkerOpt, error) {
	cfg := b.cfg
	id, err := base.ID(cfg.Root)
	if err != nil {
		return base.WorkerOpt{}, err
	}
	layers := cfg.Client.SnapshotService(cfg.Snapshotter)
	leaseManager := leaseutil.WithNamespace(sharedLeases{cfg.Client.LeasesService(), layers, cfg.Snapshotter}, cfg.Namespace)
	blobs := snapshot.NewContentStore(cfg.Client.ContentStore(), cfg.Namespace)
	usage, err := resources.NewMonitor()
	if err != nil {
		return base.WorkerOpt{}, err
	}
	providers := lent.providers()
	executor, err := runcexecutor.New(runcexecutor.Opt{
		Root:                b.executorDir(),
		CommandCandidates:   []string{cfg.Runc},
		DefaultCgroupParent: cfg.CgroupParent,
		ProcessMode:         oci.ProcessSandbox,
		ResourceMonitor:     usage,
	}, providers)
	if err != nil {
		return base.WorkerOpt{}, fmt.Errorf("make the steps' executor: %w", err)
	}
	policy, err := gcPolicy(cfg.Root)
	if err != nil {
		return base.WorkerOpt{}, err
	}
	records, err := metadata.NewStore(filepath.Join(cfg.Root, "metadata.db"))
	if err != nil {
		return base.WorkerOpt{}, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	return base.WorkerOpt{
		ID:   id,
		Root: cfg.Root,
		Labels: map[string]string{
			label.Executor:    "oci",
			label.Snapshotter: cfg.Snapshotter,
			label.Hostname:    hostname,
			label.Network:     "bridge",
		},
		Platforms:        []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         policy,
		BuildkitVersion:  bkclient.BuildkitVersion{Package: "holdfast.dev/holdfast", Version: cfg.Version},
		NetworkProviders: providers,
		Executor:         executor,
		Snapshotter:      snapshot.NewSnapshotter(cfg.Snapshotter, sharedSnapshots{layers}, cfg.Namespace, nil),
		ContentStore:     blobs,
		Applier:          winlayers.NewFileSystemApplierWithWindows(blobs, apply.NewFileSystemApplier(blobs)),
		Differ:           winlayers.NewWalkingDiffWithWindows(blobs, walking.NewWalkingDiff(blobs)),
		ImageStore:       unlisted{inNamespace{cfg.Images, cfg.Namespace}},
		RegistryHosts:    cfg.Hosts,
		LeaseManager:     leaseManager,
		GarbageCollect: func(ctx context.Context) (gc.Stats, error) {
			// A lease that is removed with this option takes the garbage with it.
			l, err := leaseManager.Create(ctx, leases.WithRandomID())
			if err != nil {
				return nil, err
			}
			return nil, leaseManager.Delete(ctx, leases.Lease{ID: l.ID}, leases.SynchronousDelete)
		},
		MetadataStore:   records,
		MountPoolRoot:   filepath.Join(cfg.Root, "cachemounts"),
		ResourceMonitor: usage,
	}, nil
}

// gcPolicy is BuildKit's own, which depends on the size of the disk.
func gcPolicy(root string) ([]bkclient.PruneInfo, error) {
	stat, err := disk.GetDiskStat(root)
	if err != nil {
		return nil, fmt.Errorf("measure the build cache's disk: %w", err)
	}
	var out []bkclient.PruneInfo
	for _, p := range bkconfig.DefaultGCPolicy(bkconfig.GCConfig{}, stat) {
		out = append(out, bkclient.PruneInfo{
			Filter:        p.Filters,
			All:           p.All,
			KeepDuration:  p.KeepDuration.Duration,
			ReservedSpace: p.ReservedSpace.AsBytes(stat),
			MaxUsedSpace:  p.MaxUsedSpace.AsBytes(stat),
			MinFreeSpace:  p.MinFreeSpace.AsBytes(stat),
		})
	}
	return out, nil
}

func frontends(workers *worker.Controller, log interface {
	Warn(msg string, args ...any)
},
) (map[string]frontend.Frontend, error) {
	images, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, err
	}
	return map[string]frontend.Frontend{
		"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile{log}.build),
		"gateway.v0":    images,
	}, nil
}
