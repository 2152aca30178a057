// Package network serves /networks: it reads requests, calls the network
// domain through Backend and containers through Connector.
package network

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Backend is the network service as this router needs it. Names are names,
// IDs or unambiguous ID prefixes.
type Backend interface {
	List(ctx context.Context, filters map[string][]string) ([]network.Summary, error)
	Inspect(ctx context.Context, name string) (network.Inspect, error)
	Create(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error)
	Remove(ctx context.Context, name string) error
	Prune(ctx context.Context, filters map[string][]string) (network.PruneReport, error)
}

// Connector joins containers, running or not, to networks.
type Connector interface {
	ConnectNetwork(ctx context.Context, network, container string, ep *network.EndpointSettings) error
	// DisconnectNetwork: with force also where the container is gone.
	DisconnectNetwork(ctx context.Context, network, container string, force bool) error
}

// Swarm knows the networks of the swarm, if this node is in one.
type Swarm interface {
	Network(ctx context.Context, name string) (network.Inspect, error)
}

// Router serves /networks.
type Router struct {
	networks   Backend
	containers Connector
	swarm      Swarm
}

// New returns the router.
func New(b Backend, c Connector, s Swarm) *Router {
	return &Router{networks: b, containers: c, swarm: s}
}

var _ route.Router = (*Router)(nil)

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: "/networks", Handler: rt.list},
		{Method: http.MethodGet, Path: "/networks/", Handler: rt.list},
		{Method: http.MethodGet, Path: "/networks/{name:.+}", Handler: rt.inspect},
		{Method: http.MethodPost, Path: "/networks/create", Handler: rt.create},
		{Method: http.MethodPost, Path: "/networks/prune", Handler: rt.prune},
		{Method: http.MethodPost, Path: "/networks/{name:.*}/connect", Handler: rt.connect},
		{Method: http.MethodPost, Path: "/networks/{name:.*}/disconnect", Handler: rt.disconnect},
		{Method: http.MethodDelete, Path: "/networks/{name:.*}", Handler: rt.remove},
	}
}

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	out, err := rt.networks.List(r.Context(), filters)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	var out network.Inspect
	var err error
	switch r.FormValue("scope") {
	case "", "local":
		out, err = rt.networks.Inspect(r.Context(), route.Var(r, "name"))
	case "swarm":
		out, err = rt.swarm.Network(r.Context(), route.Var(r, "name"))
	default:
		err = fault.New(errdefs.ErrNotFound, "network %s not found", route.Var(r, "name"))
	}
	if err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), "1.52") {
		out.Status = nil
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) create(w http.ResponseWriter, r *http.Request) error {
	var req network.CreateRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), "1.48") {
		req.EnableIPv4 = nil
	}
	out, err := rt.networks.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) connect(_ http.ResponseWriter, r *http.Request) error {
	var req network.ConnectRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	return rt.containers.ConnectNetwork(r.Context(), route.Var(r, "name"), req.Container, req.EndpointConfig)
}

func (rt *Router) disconnect(_ http.ResponseWriter, r *http.Request) error {
	var req network.DisconnectRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	return rt.containers.DisconnectNetwork(r.Context(), route.Var(r, "name"), req.Container, req.Force)
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	if err := rt.networks.Remove(r.Context(), route.Var(r, "name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	out, err := rt.networks.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
