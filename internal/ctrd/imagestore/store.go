package imagestore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/image"
)

// Deps are containerd's parts; all are required.
type Deps struct {
	Namespace   string
	Snapshotter string // name, as gc labels and `docker info` show it
	Content     content.Store
	Images      images.Store
	Leases      leases.Manager
	Snapshots   snapshots.Snapshotter
	Applier     diff.Applier
	Log         *slog.Logger
	TempDir     string // exists; for short-lived mount points
	// Platform is what containers run on here: that manifest of an image is unpacked.
	Platform ocispec.Platform
	// Hosts is how registries are reached.
	Hosts HostOptions
	// Downloads and Uploads are how many layers of an image are on their way at a
	// time; 0 is Docker's 3 and 5.
	Downloads, Uploads int
}

// Store fills image.Records, image.Content, image.Layers, image.Archives and
// image.Registry.
type Store struct {
	d Deps

	mu    sync.Mutex // guards the fields below; never held across I/O
	known map[digest.Digest][]image.Manifest
	dirs  map[digest.Digest][]string
	sizes map[digest.Digest]int64 // of unpacked layers, by chain ID
	epoch int                     // raised by forget: answers computed before are not kept
}

var (
	_ image.Records  = (*Store)(nil)
	_ image.Content  = (*Store)(nil)
	_ image.Layers   = (*Store)(nil)
	_ image.Archives = (*Store)(nil)
	_ image.Registry = (*Store)(nil)
)

// New returns a Store.
func New(d Deps) *Store {
	s := &Store{d: d}
	s.forget()
	return s
}

// ns puts the namespace into ctx, which containerd's services want.
func (s *Store) ns(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.d.Namespace)
}

// forget drops everything remembered about images.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = map[digest.Digest][]image.Manifest{}
	s.dirs = map[digest.Digest][]string{}
	s.sizes = map[digest.Digest]int64{}
	s.epoch++
}

// unique makes a key that nothing else has.
func unique(prefix string) (string, error) {
	var b [12]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a random key: %w", err)
	}
	return prefix + hex.EncodeToString(b[:]), nil
}

const (
	// leaseLimit ends leases that a killed daemon left behind.
	leaseLimit = 24 * time.Hour
	// cleanupLimit bounds tidying up after an operation whose context may have ended.
	cleanupLimit = time.Minute
)

func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
}

// Hold implements image.Content.
func (s *Store) Hold(ctx context.Context) (context.Context, func(bool), error) {
	ctx = s.ns(ctx)
	l, err := s.d.Leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseLimit))
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	release := func(discard bool) {
		ctx, cancel := detached(ctx)
		defer cancel()
		var opts []leases.DeleteOpt
		if discard {
			opts = append(opts, leases.SynchronousDelete)
			s.forget()
		}
		if err := s.d.Leases.Delete(ctx, l, opts...); err != nil && !errdefs.IsNotFound(err) {
			s.d.Log.Warn("lease not released", logkey.Name, l.ID, logkey.Err, err)
		}
	}
	return leases.WithLease(ctx, l.ID), release, nil
}
