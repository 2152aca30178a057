package imagestore

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

const (
	defaultUploads = 5
	// pushTick is how often the progress of a push is looked at.
	pushTick = 100 * time.Millisecond
)

// Push implements image.Registry.
func (s *Store) Push(ctx context.Context, ref string, target ocispec.Descriptor, r image.Remote, p image.Progress) error {
	ctx = s.ns(ctx)
	a, err := s.reach(ctx, ref, r)
	if err != nil {
		return err
	}
	defer a.close()
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if _, ok := name.(reference.Digested); !ok {
		// With the digest the tag is set on this manifest only, not on its children.
		if name, err = reference.WithDigest(name, target.Digest); err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
	}
	pusher, err := a.resolver().Pusher(ctx, name.String())
	if err != nil {
		return fromRegistry(ref, err)
	}
	w := &pushWatch{track: a.track, p: p}
	stop := w.start(ctx)
	err = remotes.PushContent(ctx, pusher, target, s.d.Content, semaphore.NewWeighted(int64(cmp.Or(s.d.Uploads, defaultUploads))), platforms.All, w.wrap)
	stop()
	if err != nil {
		return fromRegistry(ref, err)
	}
	return s.label(ctx, ref, target)
}

// pushWatch tells how the blobs of a push get on.
type pushWatch struct {
	track docker.StatusTracker
	p     image.Progress

	mu   sync.Mutex // guards open
	open []ocispec.Descriptor
}

// wrap notes the blobs worth a line.
func (w *pushWatch) wrap(h images.Handler) images.Handler {
	note := images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsLayerType(d.MediaType) {
			w.p.Update(short(d.Digest), "Preparing", 0, 0)
			w.mu.Lock()
			w.open = append(w.open, d)
			w.mu.Unlock()
		}
		return nil, nil
	})
	return images.Handlers(note, h)
}

// start begins to tell; the returned function tells the rest and ends it.
func (w *pushWatch) start(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(pushTick)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				w.tell(context.WithoutCancel(ctx))
				return
			case <-t.C:
				w.tell(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (w *pushWatch) tell(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var rest []ocispec.Descriptor
	for _, d := range w.open {
		id := short(d.Digest)
		st, err := w.track.GetStatus(remotes.MakeRefKey(ctx, d))
		switch {
		case err != nil || st.Total > 0 && st.Offset == 0 && !st.Committed:
			rest = append(rest, d)
		case st.Committed && st.Offset >= st.Total:
			w.p.Update(id, pushed(st), 0, 0)
		default:
			w.p.Update(id, "Pushing", st.Offset, st.Total)
			rest = append(rest, d)
		}
	}
	w.open = rest
}

func pushed(st docker.Status) string {
	switch {
	case st.MountedFrom != "":
		_, repository, _ := strings.Cut(st.MountedFrom, "/") // the registry is this one
		return "Mounted from " + repository
	case st.Exists:
		return "Layer already exists"
	}
	return "Pushed"
}
