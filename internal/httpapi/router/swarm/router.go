package swarm

import (
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Router serves the swarm.
type Router struct {
	b Backend
}

// New returns the router.
func New(b Backend) *Router { return &Router{b} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	return []route.Route{
		{Method: post, Path: "/swarm/init", Handler: rt.init},
		{Method: post, Path: "/swarm/join", Handler: rt.join},
		{Method: post, Path: "/swarm/leave", Handler: rt.leave},
		{Method: get, Path: "/swarm", Handler: rt.inspect},
		{Method: get, Path: "/swarm/unlockkey", Handler: rt.unlockKey},
		{Method: post, Path: "/swarm/update", Handler: rt.update},
		{Method: post, Path: "/swarm/unlock", Handler: rt.unlock},

		{Method: get, Path: "/nodes", Handler: rt.nodes},
		{Method: get, Path: "/nodes/{id}", Handler: rt.node},
		{Method: del, Path: "/nodes/{id}", Handler: rt.removeNode},
		{Method: post, Path: "/nodes/{id}/update", Handler: rt.updateNode},

		{Method: get, Path: "/services", Handler: rt.services},
		{Method: get, Path: "/services/{id}", Handler: rt.service},
		{Method: post, Path: "/services/create", Handler: rt.createService},
		{Method: post, Path: "/services/{id}/update", Handler: rt.updateService},
		{Method: del, Path: "/services/{id}", Handler: rt.removeService},
		{Method: get, Path: "/services/{id}/logs", Handler: rt.serviceLogs},

		{Method: get, Path: "/tasks", Handler: rt.tasks},
		{Method: get, Path: "/tasks/{id}", Handler: rt.task},
		{Method: get, Path: "/tasks/{id}/logs", Handler: rt.taskLogs},

		{Method: get, Path: "/secrets", Handler: rt.secrets},
		{Method: post, Path: "/secrets/create", Handler: rt.createSecret},
		{Method: get, Path: "/secrets/{id}", Handler: rt.secret},
		{Method: del, Path: "/secrets/{id}", Handler: rt.removeSecret},
		{Method: post, Path: "/secrets/{id}/update", Handler: rt.updateSecret},

		{Method: get, Path: "/configs", Handler: rt.configs},
		{Method: post, Path: "/configs/create", Handler: rt.createConfig},
		{Method: get, Path: "/configs/{id}", Handler: rt.config},
		{Method: del, Path: "/configs/{id}", Handler: rt.removeConfig},
		{Method: post, Path: "/configs/{id}/update", Handler: rt.updateConfig},
	}
}

func id(r *http.Request) string { return route.Var(r, "id") }

// version reads the version that an update starts from.
func version(r *http.Request, what string) (uint64, error) {
	raw := r.URL.Query().Get("version")
	v, err := strconv.ParseUint(raw, 10, 64)
	if err != nil {
		return 0, fault.New(errdefs.ErrInvalidArgument, "invalid %s version '%s': %v", what, raw, err)
	}
	return v, nil
}

// done replies with the status alone, or with what went wrong.
func done(w http.ResponseWriter, status int, err error) error {
	if err != nil {
		return err
	}
	w.WriteHeader(status)
	return nil
}

// answer replies with v, or with what went wrong.
func answer(w http.ResponseWriter, status int, v any, err error) error {
	if err != nil {
		return err
	}
	return route.JSON(w, status, v)
}

func (rt *Router) init(w http.ResponseWriter, r *http.Request) error {
	var req swarm.InitRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	node, err := rt.b.Init(r.Context(), req)
	return answer(w, http.StatusOK, node, err)
}

func (rt *Router) join(w http.ResponseWriter, r *http.Request) error {
	var req swarm.JoinRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.Join(r.Context(), req))
}

func (rt *Router) leave(w http.ResponseWriter, r *http.Request) error {
	return done(w, http.StatusOK, rt.b.Leave(r.Context(), route.Bool(r, "force")))
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	s, err := rt.b.Inspect(r.Context())
	return answer(w, http.StatusOK, s, err)
}

func (rt *Router) update(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.Spec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	v, err := version(r, "swarm")
	if err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.Update(r.Context(), v, spec, Rotation{
		RotateWorkerToken:      route.Bool(r, "rotateWorkerToken"),
		RotateManagerToken:     route.Bool(r, "rotateManagerToken"),
		RotateManagerUnlockKey: route.Bool(r, "rotateManagerUnlockKey"),
	}))
}

func (rt *Router) unlockKey(w http.ResponseWriter, r *http.Request) error {
	key, err := rt.b.UnlockKey(r.Context())
	return answer(w, http.StatusOK, swarm.UnlockKeyResponse{UnlockKey: key}, err)
}

func (rt *Router) unlock(w http.ResponseWriter, r *http.Request) error {
	var req swarm.UnlockRequest
	if err := route.Decode(r, &req, false); err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.Unlock(r.Context(), req.UnlockKey))
}

func (rt *Router) nodes(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	ns, err := rt.b.Nodes(r.Context(), f)
	return answer(w, http.StatusOK, ns, err)
}

func (rt *Router) node(w http.ResponseWriter, r *http.Request) error {
	n, err := rt.b.Node(r.Context(), id(r))
	return answer(w, http.StatusOK, n, err)
}

func (rt *Router) removeNode(w http.ResponseWriter, r *http.Request) error {
	return done(w, http.StatusOK, rt.b.RemoveNode(r.Context(), id(r), route.Bool(r, "force")))
}

func (rt *Router) updateNode(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.NodeSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	v, err := version(r, "node")
	if err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.UpdateNode(r.Context(), id(r), v, spec))
}

func (rt *Router) services(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	ss, err := rt.b.Services(r.Context(), f, route.Bool(r, "status"))
	return answer(w, http.StatusOK, ss, err)
}

func (rt *Router) service(w http.ResponseWriter, r *http.Request) error {
	s, err := rt.b.Service(r.Context(), id(r), route.Bool(r, "insertDefaults"))
	return answer(w, http.StatusOK, s, err)
}

func (rt *Router) createService(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.ServiceSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	res, err := rt.b.CreateService(r.Context(), spec, r.Header.Get(registry.AuthHeader))
	return answer(w, http.StatusCreated, res, err)
}

func (rt *Router) updateService(w http.ResponseWriter, r *http.Request) error {
	u := ServiceUpdate{
		Auth:     r.Header.Get(registry.AuthHeader),
		AuthFrom: r.URL.Query().Get("registryAuthFrom"),
		Rollback: r.URL.Query().Get("rollback"),
	}
	if err := route.Decode(r, &u.Spec, false); err != nil {
		return err
	}
	var err error
	if u.Version, err = version(r, "service"); err != nil {
		return err
	}
	res, err := rt.b.UpdateService(r.Context(), id(r), u)
	return answer(w, http.StatusOK, res, err)
}

func (rt *Router) removeService(w http.ResponseWriter, r *http.Request) error {
	return done(w, http.StatusOK, rt.b.RemoveService(r.Context(), id(r)))
}

func (rt *Router) tasks(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	ts, err := rt.b.Tasks(r.Context(), f)
	return answer(w, http.StatusOK, ts, err)
}

func (rt *Router) task(w http.ResponseWriter, r *http.Request) error {
	t, err := rt.b.Task(r.Context(), id(r))
	return answer(w, http.StatusOK, t, err)
}
