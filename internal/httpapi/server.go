package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/moby/moby/api/types"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

const (
	versionPrefix = "/v{version:[0-9.]+}"
	// headerLimit bounds how long a client may take over its request header.
	headerLimit = time.Minute
	// cutLimit is how long handlers get after their context ended.
	cutLimit = 5 * time.Second
	// drainFrom is what net/http reads by itself of a request that was answered
	// early; drainLimit and drainTime bound what is read beyond.
	drainFrom  = 256 << 10
	drainLimit = 1 << 30
	drainTime  = 10 * time.Second
	// sendTime is how long answers may be on their way at shutdown.
	sendTime = time.Second
)

// Options for New. Log and Clock are required.
type Options struct {
	Log     *slog.Logger
	Clock   clock.Clock
	Version string // of Holdfast, for the Server header
	Routers []route.Router
	// Grace is how long requests may go on after Serve's context ended, before
	// theirs is ended too. Those that stream (events, logs, attach) end at once,
	// and with zero all do.
	Grace time.Duration
}

// Server serves the routers under "/" and under "/v1.x/".
type Server struct {
	o    Options
	mux  *mux.Router
	busy busy
}

// New builds a server. Routes are tried in the order of the routers and their routes.
func New(o Options) *Server {
	s := &Server{o: o, mux: mux.NewRouter()}
	for _, r := range o.Routers {
		for _, rt := range r.Routes() {
			h := s.wrap(rt)
			s.mux.Path(versionPrefix + rt.Path).Methods(rt.Method).Handler(h)
			s.mux.Path(rt.Path).Methods(rt.Method).Handler(h)
		}
	}
	s.mux.Methods(http.MethodOptions).Handler(s.wrap(route.Route{Handler: options}))
	missing := http.HandlerFunc(s.notFound)
	s.mux.NotFoundHandler = missing
	s.mux.MethodNotAllowedHandler = missing
	return s
}

// Handler returns the whole API as an http.Handler.
func (s *Server) Handler() http.Handler { return s.mux }

// Serve answers on the listeners until ctx ends, then stops: no new connection,
// streams end, Grace for other requests, then their contexts end, and what is
// still there after cutLimit is cut off. It closes the listeners and waits for handlers.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	base, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	var protocols http.Protocols
	protocols.SetHTTP1(true) // attach and exec take the connection over: HTTP/2 has none to give
	srv := &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: headerLimit,
		Protocols:         &protocols,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		s.o.Log.Info("API listening", logkey.Address, address(l.Addr()))
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve API on %s: %w", address(l.Addr()), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		return s.shutdown(context.WithoutCancel(ctx), srv, endRequests)
	})
	return g.Wait()
}

func address(a net.Addr) string { return a.Network() + "://" + a.String() }

func (s *Server) shutdown(ctx context.Context, srv *http.Server, endRequests func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- srv.Shutdown(ctx) }() // closes the listeners at once
	s.busy.endStreams()
	handlers := s.busy.idle()
	timer := s.o.Clock.NewTimer(s.o.Grace)
	defer timer.Stop()
	select {
	case <-handlers:
	case <-timer.C():
	}
	endRequests()
	cut := s.o.Clock.NewTimer(cutLimit)
	defer cut.Stop()
	select {
	case <-handlers:
	case <-cut.C():
		s.o.Log.Warn("API requests cut off", logkey.Why, "still running after their context ended")
	}
	// A handler's end is not yet its answer's: net/http sends what it still holds,
	// and only then is the connection idle.
	sent := s.o.Clock.NewTimer(sendTime)
	defer sent.Stop()
	select {
	case err := <-drained:
		drained <- err
	case <-sent.C():
	}
	cancel() // Shutdown returns; what is left is idle or stuck
	if err := <-drained; err != nil && !errors.Is(err, context.Canceled) {
		return errors.Join(err, srv.Close())
	}
	return srv.Close()
}

// wrap makes an http.Handler of a route: headers, version, panic, log, error reply.
func (s *Server) wrap(rt route.Route) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: rw}
		// Or else the first piece of output makes net/http throw away what the
		// client still has to send, of an archive under load say.
		if err := http.NewResponseController(rw).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			s.o.Log.Debug("request and reply cannot overlap", logkey.Err, err)
		}
		ctx, cancel := context.WithCancel(r.Context())
		r = r.WithContext(ctx)
		s.busy.add(w, cancel)
		defer s.busy.done(w)
		s.headers(rw.Header())
		start := s.o.Clock.Now()
		s.logRequest(r)
		err := s.call(rt.Handler, w, r)
		if err != nil {
			s.fail(w, r, err)
		}
		s.drain(w, r)
		if s.o.Log.Enabled(ctx, slog.LevelDebug) {
			s.o.Log.Debug("API request done", logkey.Method, r.Method, logkey.Path, r.URL.Path,
				logkey.Status, w.status, logkey.Duration, s.o.Clock.Now().Sub(start))
		}
	})
}

func (s *Server) headers(h http.Header) {
	h.Set("Server", "Holdfast/"+s.o.Version+" (linux)")
	h.Set("Api-Version", MaxVersion)
	h.Set("Ostype", "linux")
	h.Set("Docker-Experimental", "false")
}

// call runs the handler with the negotiated version; a panic becomes an error.
func (s *Server) call(h route.Handler, w *response, r *http.Request) (err error) {
	v := mux.Vars(r)["version"]
	if v == "" {
		v = MaxVersion
	}
	if err := checkVersion(v); err != nil {
		return err
	}
	// A body of another type than a form is none of ParseForm's business.
	if err := r.ParseForm(); err != nil && !strings.HasPrefix(err.Error(), "mime:") {
		return badForm(err)
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // the recovered value is compared by identity, as net/http does
				panic(p)
			}
			s.o.Log.Error("API handler panicked", logkey.Method, r.Method, logkey.Path, r.URL.Path,
				logkey.Err, fmt.Sprint(p), logkey.Stack, string(debug.Stack()))
			err = fmt.Errorf("internal error in %s %s: %v", r.Method, r.URL.Path, p)
		}
	}()
	return h(w, r.WithContext(route.WithVersion(r.Context(), v)))
}

// drain takes what a client still sends, for a while, after it was answered:
// most read the answer only then, and a connection closed under them would make
// a broken pipe of it. What is short is left to net/http, which does the same.
func (s *Server) drain(w *response, r *http.Request) {
	if w.hijacked || (r.ContentLength >= 0 && r.ContentLength < drainFrom) || r.Body == nil || r.Body == http.NoBody {
		return
	}
	rc := http.NewResponseController(w)
	if rc.Flush() != nil || rc.SetReadDeadline(s.o.Clock.Now().Add(drainTime)) != nil {
		return // it is gone, or no real connection
	}
	if _, err := io.CopyN(io.Discard, r.Body, drainLimit); err != nil && !errors.Is(err, io.EOF) {
		s.o.Log.Debug("rest of request not read", logkey.Path, r.URL.Path, logkey.Err, err)
		return // net/http closes the connection
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		s.o.Log.Debug("connection not used again", logkey.Err, err)
	}
}

// fail writes the error reply where that is still possible.
func (s *Server) fail(w *response, r *http.Request, err error) {
	log := s.o.Log.With(logkey.Method, r.Method, logkey.Path, r.URL.Path, logkey.Err, err)
	if canceled(r.Context()) {
		log.Debug("API request abandoned")
		// By its client, who reads nothing any more, or by our shutdown: then an
		// empty 200 would be a lie.
		if w.status == 0 && !w.hijacked {
			writeError(w, http.StatusServiceUnavailable, "the request was cancelled: the daemon is shutting down", log)
		}
		return
	}
	status := Status(err)
	if status >= http.StatusInternalServerError {
		log.Error("API request failed", logkey.Status, status)
	}
	switch {
	case w.hijacked:
		return
	case w.status != 0:
		// The reply is under way: cutting it is the one way left to say that it is
		// not whole.
		log.Debug("API reply cut off")
		panic(http.ErrAbortHandler)
	case status == http.StatusNotModified:
		w.WriteHeader(status)
		return
	}
	if v := mux.Vars(r)["version"]; v != "" && less(v, MinVersion) {
		http.Error(w, err.Error(), status) // clients that old print the body as it is
		return
	}
	if plain(err) {
		w.Header().Set("Content-Type", types.MediaTypeRawStream)
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s\r\n", err)
		return
	}
	writeError(w, status, err.Error(), log)
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.headers(w.Header())
	writeError(w, http.StatusNotFound, "page not found", s.o.Log)
}

func writeError(w http.ResponseWriter, status int, text string, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	reply := struct {
		Message string `json:"message"`
	}{strings.TrimSpace(text)}
	if err := enc.Encode(reply); err != nil {
		log.Debug("error reply not delivered", logkey.Why, err)
	}
}

func options(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusOK)
	return nil
}
