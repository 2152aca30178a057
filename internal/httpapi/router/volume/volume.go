package volume

import (
	"context"
	"errors"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/volume"
)

// Backend is the volume service as this router needs it. Errors carry errdefs
// classes and Docker's texts.
type Backend interface {
	Create(ctx context.Context, o domain.CreateOptions) (volume.Volume, error)
	Inspect(ctx context.Context, name string) (volume.Volume, error)
	List(ctx context.Context, filters map[string][]string) ([]volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, filters map[string][]string) (volume.PruneReport, error)
}

// pruneAnonymousOnly is the version from which prune leaves named volumes alone
// unless asked; clusterVolumes the one that knows volumes of a swarm.
const (
	pruneAnonymousOnly = "1.42"
	clusterVolumes     = "1.42"
)

// Swarm tells what part this node has in a swarm; see its router.
type Swarm interface{ Status() string }

// Router serves volumes.
type Router struct {
	b     Backend
	swarm Swarm
}

// New returns the router.
func New(b Backend, s Swarm) *Router { return &Router{b: b, swarm: s} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: "/volumes", Handler: rt.list},
		{Method: http.MethodGet, Path: "/volumes/{name:.*}", Handler: rt.inspect},
		{Method: http.MethodPost, Path: "/volumes/create", Handler: rt.create},
		{Method: http.MethodPost, Path: "/volumes/prune", Handler: rt.prune},
		{Method: http.MethodPut, Path: "/volumes/{name:.*}", Handler: rt.update},
		{Method: http.MethodDelete, Path: "/volumes/{name:.*}", Handler: rt.remove},
	}
}

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "error reading volume filters: %s", err)
	}
	vs, err := rt.b.List(r.Context(), f)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, volume.ListResponse{Volumes: vs})
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	v, err := rt.b.Inspect(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, v)
}

func (rt *Router) create(w http.ResponseWriter, r *http.Request) error {
	var in volume.CreateRequest
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	if in.ClusterVolumeSpec != nil && route.AtLeast(r.Context(), clusterVolumes) {
		return rt.noClusterVolumes(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	v, err := rt.b.Create(r.Context(), domain.CreateOptions{Name: in.Name, Driver: in.Driver, Options: in.DriverOpts, Labels: in.Labels})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, v)
}

func (rt *Router) update(http.ResponseWriter, *http.Request) error {
	return rt.noClusterVolumes("volume update only valid for cluster volumes, but swarm is unavailable")
}

// noClusterVolumes refuses volumes of the swarm: in Docker's words where there
// could be none, else in ours.
func (rt *Router) noClusterVolumes(text string) error {
	if rt.swarm.Status() == "active/manager" {
		return fault.New(errdefs.ErrNotImplemented, "cluster volumes are not supported by this release of Holdfast")
	}
	return fault.New(errdefs.ErrUnavailable, "%s", text)
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	if err := rt.b.Remove(r.Context(), route.Var(r, "name"), route.Bool(r, "force")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), pruneAnonymousOnly) {
		f["all"] = append(f["all"], "true")
	}
	report, err := rt.b.Prune(r.Context(), f)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return route.JSON(w, http.StatusOK, report)
}
