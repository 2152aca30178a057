package container

import (
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/fault"
)

// lookup finds a container by full ID, name, or unambiguous ID prefix.
func (s *Service) lookup(ref string) (*Container, error) {
	if ref == "" {
		return nil, fault.New(errdefs.ErrInvalidArgument, "invalid name or ID supplied: %q", ref)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byID[ref]; c != nil {
		return c, nil
	}
	if id, ok := s.byName[strings.TrimPrefix(ref, "/")]; ok {
		if c := s.byID[id]; c != nil {
			return c, nil
		}
	}
	var found *Container
	for id, c := range s.byID {
		if !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, fault.New(errdefs.ErrInvalidArgument, "Multiple IDs found with provided prefix: %s", ref)
		}
		found = c
	}
	if found == nil {
		return nil, fault.New(errdefs.ErrNotFound, "No such container: %s", ref)
	}
	return found, nil
}

// Exists says whether the name, ID or ID prefix names a container.
func (s *Service) Exists(ref string) bool {
	_, err := s.lookup(ref)
	return err == nil
}

func errNotRunning(id string) error {
	return fault.New(errdefs.ErrConflict, "container %s is not running", id)
}

func errRestarting(id string) error {
	return fault.New(errdefs.ErrConflict, "Container %s is restarting, wait until the container is running", id)
}

// settled is the record once a start in progress is over, for verbs that would
// else take a container on its way up for one at rest: a stop must not miss the
// start that a restart policy just made, and a program may have printed, and its
// reader want something of it, before the engine has noted that it runs.
func (c *Container) settled() Record {
	r := c.record()
	if r.Phase != Starting {
		return r
	}
	c.op.Lock()
	defer c.op.Unlock()
	return c.record()
}

// running reports whether the API calls a container in this phase running.
func (p Phase) running() bool {
	switch p {
	case Running, Paused, Stopping, Restarting:
		return true
	default:
		return false
	}
}

// alive reports whether the phase has a task.
func (p Phase) alive() bool {
	return p == Running || p == Paused || p == Stopping
}

// Counts are the containers per state, as `docker info` shows them.
type Counts struct {
	Total, Running, Paused, Stopped int
}

// Counts returns how many containers there are.
func (s *Service) Counts() Counts {
	var n Counts
	for _, c := range s.all() {
		n.Total++
		switch p := c.record().Phase; {
		case p == Paused:
			n.Paused++
		case p.running():
			n.Running++
		default:
			n.Stopped++
		}
	}
	return n
}

// User is a container as the user of an image.
type User struct {
	ID       string
	ImageID  string        // what the image's name pointed to when the container was made
	Image    string        // the name it was made with
	Manifest digest.Digest // platform manifest, empty where unknown
	Running  bool
}

// ImageUsers lists the containers with the images they were made from or mount.
func (s *Service) ImageUsers() []User {
	var out []User
	for _, c := range s.all() {
		r := c.record()
		u := User{ID: r.ID, ImageID: r.ImageID, Running: r.shown().running()}
		if r.Config != nil {
			u.Image = r.Config.Image
		}
		if r.ImageManifest != nil {
			u.Manifest = r.ImageManifest.Digest
		}
		out = append(out, u)
		for _, m := range r.Mounts {
			if m.Image != "" {
				out = append(out, User{ID: r.ID, ImageID: m.Image, Image: m.Source, Running: u.Running})
			}
		}
	}
	return out
}

// Names returns the containers' names by ID.
func (s *Service) Names() map[string]string {
	out := map[string]string{}
	for _, c := range s.all() {
		r := c.record()
		out[r.ID] = r.Name
	}
	return out
}

// LayerState is what a container's writable layer is like now.
type LayerState struct {
	ID    string
	Open  bool   // processes may be writing to it
	Stamp string // differs between runs
}

// Known says whether the ID is a container's, or of one that is being made.
func (s *Service) Known(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[id]; ok {
		return true
	}
	for _, holder := range s.byName {
		if holder == id {
			return true
		}
	}
	return false
}

// LayerStates tells of all containers.
func (s *Service) LayerStates() []LayerState {
	all := s.all()
	out := make([]LayerState, len(all))
	for i, c := range all {
		out[i] = c.layerState()
	}
	return out
}

// LayerState tells of the container with this ID, if there is one.
func (s *Service) LayerState(id string) (LayerState, bool) {
	s.mu.Lock()
	c, ok := s.byID[id]
	s.mu.Unlock()
	if !ok {
		return LayerState{}, false
	}
	return c.layerState(), true
}

func (c *Container) layerState() LayerState {
	r := c.record()
	open := r.Phase.alive() || r.Phase == Starting
	return LayerState{ID: r.ID, Open: open, Stamp: strconv.FormatInt(r.StartedAt.UnixNano(), 36) + "-" + strconv.FormatInt(r.FinishedAt.UnixNano(), 36)}
}

// RunningIDs lists the containers that have processes; one that waits for its
// restart has none.
func (s *Service) RunningIDs() []string {
	var out []string
	for _, c := range s.all() {
		if r := c.record(); r.Phase.alive() {
			out = append(out, r.ID)
		}
	}
	return out
}
