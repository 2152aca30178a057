package build

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"

	"holdfast.dev/holdfast/internal/base/fault"
	domain "holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Backend is the builder as this router needs it.
type Backend interface {
	// Build returns the image's ID and the names it got. A command that failed is
	// a *domain.StepError.
	Build(ctx context.Context, r domain.Request, body io.Reader, progress *domain.Classic) (id string, tags []string, err error)
	// BuildInSession is for a request with a session.
	BuildInSession(ctx context.Context, r domain.Request, trace func([]byte) error) (id string, err error)
	// Upload brings the context of a build in a session whose Remote is
	// domain.UploadRequest.
	Upload(ctx context.Context, id string, body io.Reader) error
	Cancel(id string)
	Prune(ctx context.Context, o domain.PruneOptions) ([]domain.CacheRecord, error)
	// ServeSession and ServeControl return when the connection ends.
	ServeSession(ctx context.Context, conn net.Conn, headers http.Header) error
	ServeControl(ctx context.Context, conn net.Conn) error
}

// Router serves builds.
type Router struct {
	b Backend
}

// New returns the router.
func New(b Backend) *Router { return &Router{b} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodPost, Path: "/build", Handler: rt.build},
		{Method: http.MethodPost, Path: "/build/cancel", Handler: rt.cancel},
		{Method: http.MethodPost, Path: "/build/prune", Handler: rt.prune},
		{Method: http.MethodPost, Path: "/session", Handler: rt.session},
		{Method: http.MethodPost, Path: "/grpc", Handler: rt.grpc},
	}
}

func (rt *Router) build(w http.ResponseWriter, r *http.Request) error {
	if id, ok := uploadOf(r); ok {
		if err := rt.b.Upload(r.Context(), id, r.Body); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	in, quiet, err := decode(r)
	if err != nil {
		return err
	}
	out := newReply(w, quiet)
	if in.Session != "" {
		id, err := rt.b.BuildInSession(r.Context(), in, out.trace)
		if err == nil {
			err = out.result(id)
		}
		return out.end(err)
	}
	id, tags, err := rt.b.Build(r.Context(), in, r.Body, domain.NewClassic(out.text))
	if err == nil {
		out.done(id, tags)
	}
	return out.end(err)
}

func (rt *Router) cancel(w http.ResponseWriter, r *http.Request) error {
	id := r.FormValue("id")
	if id == "" {
		return fault.New(errdefs.ErrInvalidArgument, "build ID not provided")
	}
	rt.b.Cancel(id)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	o, err := decodePrune(r)
	if err != nil {
		return err
	}
	gone, err := rt.b.Prune(r.Context(), o)
	if err != nil {
		return err
	}
	var report build.CachePruneReport
	for _, c := range gone {
		report.CachesDeleted = append(report.CachesDeleted, c.ID)
		report.SpaceReclaimed += uint64(max(0, c.Size)) //nolint:gosec // not negative
	}
	return route.JSON(w, http.StatusOK, report)
}

func (rt *Router) session(w http.ResponseWriter, r *http.Request) error {
	conn, err := upgrade(w, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	return rt.b.ServeSession(r.Context(), conn, r.Header)
}

func (rt *Router) grpc(w http.ResponseWriter, r *http.Request) error {
	conn, err := upgrade(w, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	return rt.b.ServeControl(r.Context(), conn)
}

// h2c is the protocol that BuildKit's clients ask to change to.
const h2c = "h2c"

// upgrade takes the connection over for HTTP/2 without TLS of its own.
func upgrade(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	switch proto := r.Header.Get("Upgrade"); proto {
	case h2c:
	case "":
		return nil, fault.New(errdefs.ErrInvalidArgument, "no upgrade proto in request")
	default:
		return nil, fault.New(errdefs.ErrInvalidArgument, "protocol %s not supported", proto)
	}
	conn, early, err := route.Hijack(w)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	if err != nil {
		return nil, fmt.Errorf("answer upgrade: %w", err)
	}
	return &earlyConn{Conn: conn, r: io.MultiReader(io.LimitReader(early, int64(early.Buffered())), conn)}, nil
}

// earlyConn reads first what the client sent before the change of protocol.
type earlyConn struct {
	net.Conn
	r io.Reader
}

func (c *earlyConn) Read(p []byte) (int, error) { return c.r.Read(p) }
