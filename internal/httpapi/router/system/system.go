package system

import (
	"encoding/json"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Router serves the engine.
type Router struct {
	b      Backend
	events Events
	clock  clock.Clock
}

// New returns the router.
func New(b Backend, e Events, c clock.Clock) *Router { return &Router{b: b, events: e, clock: c} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return append([]route.Route{
		{Method: http.MethodGet, Path: "/_ping", Handler: rt.ping},
		{Method: http.MethodHead, Path: "/_ping", Handler: rt.ping},
		{Method: http.MethodGet, Path: "/version", Handler: rt.version},
		{Method: http.MethodGet, Path: "/info", Handler: rt.info},
		{Method: http.MethodGet, Path: "/events", Handler: rt.stream},
		{Method: http.MethodGet, Path: "/system/df", Handler: rt.diskUsage},
		{Method: http.MethodPost, Path: "/auth", Handler: rt.auth},
	}, absent()...)
}

func (rt *Router) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", string(build.BuilderBuildKit))
	h.Set("Swarm", rt.b.SwarmStatus())
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (rt *Router) version(w http.ResponseWriter, r *http.Request) error {
	v, err := rt.b.Version(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, v)
}

// info leaves out what the request's version doesn't know yet and adds what it
// still expects.
func (rt *Router) info(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	info, err := rt.b.Info(ctx)
	if err != nil {
		return err
	}
	if !route.AtLeast(ctx, "1.44") {
		runtimes := make(map[string]system.RuntimeWithStatus, len(info.Runtimes))
		for k, rt := range info.Runtimes {
			runtimes[k] = system.RuntimeWithStatus{Runtime: rt.Runtime}
		}
		info.Runtimes = runtimes
	}
	if !route.AtLeast(ctx, "1.46") {
		info.Containerd = nil
	}
	if !route.AtLeast(ctx, "1.49") {
		info.FirewallBackend = nil
	}
	if !route.AtLeast(ctx, "1.50") {
		info.DiscoveredDevices = nil
	}
	if !route.AtLeast(ctx, "1.53") {
		info.NRI = nil
	}
	if route.AtLeast(ctx, "1.50") {
		return route.JSON(w, http.StatusOK, info)
	}
	legacy, err := legacyInfo(info, !route.AtLeast(ctx, "1.49"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, legacy)
}

func legacyInfo(info system.Info, expected bool) (map[string]any, error) {
	out, err := asMap(info)
	if err != nil {
		return nil, err
	}
	out["BridgeNfIptables"], out["BridgeNfIp6tables"] = false, false
	if expected {
		for k, c := range map[string]system.Commit{"ContainerdCommit": info.ContainerdCommit, "RuncCommit": info.RuncCommit, "InitCommit": info.InitCommit} {
			out[k] = map[string]string{"ID": c.ID, "Expected": c.ID}
		}
	}
	return out, nil
}

// asMap returns v's JSON object, to be changed before it is written.
func asMap(v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(raw))
	for k, r := range raw {
		out[k] = r
	}
	return out, nil
}

func (rt *Router) auth(w http.ResponseWriter, r *http.Request) error {
	var in registry.AuthConfig
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "invalid X-Registry-Auth header: invalid JSON: %s", err)
	}
	token, err := rt.b.Auth(r.Context(), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}
