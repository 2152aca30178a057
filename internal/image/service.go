package image

import (
	"context"
	"log/slog"
	"maps"
	"sync"

	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/clock"
)

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Events   Publisher
	Users    Users
	Records  Records
	Content  Content
	Layers   Layers
	Archives Archives
	Registry Registry
	Moves    Moves
	// Platform is what containers run on here.
	Platform ocispec.Platform
	TempDir  string // exists; for what an analysis does not keep in memory
}

// Service is the image domain.
type Service struct {
	d Deps

	// names is held while a name's target is looked at and then changed, so that
	// two changes don't lose an image between them. Never held during a transfer.
	names sync.Mutex

	pruning sync.Mutex // held by a running Prune

	claims   claims
	analyses chan struct{} // holds one for each that runs
}

// New returns a Service.
func New(d Deps) *Service {
	return &Service{
		d: d, analyses: make(chan struct{}, atOnce),
		claims: claims{held: map[digest.Digest]int{}, going: map[digest.Digest]bool{}},
	}
}

// emit publishes an image event with Docker's attributes.
func (s *Service) emit(action events.Action, id, name string, labels map[string]string) {
	attrs := map[string]string{}
	maps.Copy(attrs, labels)
	if name != "" {
		attrs["name"] = name
	}
	s.d.Events.Publish(events.Message{
		Type:   events.ImageEventType,
		Action: action,
		Actor:  events.Actor{ID: id, Attributes: attrs},
		Scope:  "local",
	})
}

// labels returns the labels of an image for its event; none where they cannot be read.
func (s *Service) labels(ctx context.Context, target ocispec.Descriptor) map[string]string {
	m, err := s.best(ctx, target, nil)
	if err != nil {
		return nil
	}
	return m.Config.Config.Labels
}
