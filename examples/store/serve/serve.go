// Package serve is what the store's programs have in common: settings, health
// endpoints, a clean end.
package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast.dev/holdfast/examples/store/catalog"
)

const (
	keyAddress  = "address"
	keyPrimary  = "primary"
	keyStandbys = "standbys"
	keyPath     = "path"
	keyError    = "error"
)

// Store is the part of catalog.Catalog that handlers need.
type Store interface {
	Add(ctx context.Context, name string, cents int64) (catalog.Added, error)
	List(ctx context.Context, mark string) (catalog.Listing, error)
	Ready(ctx context.Context) error
}

var _ Store = (*catalog.Catalog)(nil)

// Main runs a program of the store until it is told to stop and returns its exit
// code. With -check it asks the running one whether it is alive: an image made
// from scratch has no other program for its health check.
func Main(args []string, handler func(Store) http.Handler) int {
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	check := fs.Bool("check", false, "ask the running program whether it is healthy")
	addr := fs.String("addr", ":80", "address to listen on")
	if err := fs.Parse(args[1:]); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func() error { return serve(ctx, *addr, handler) }
	if *check {
		run = func() error { return ask(ctx, *addr) }
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, addr string, handler func(Store) http.Handler) error {
	settings, err := catalog.SettingsFrom(os.LookupEnv)
	if err != nil {
		return err
	}
	store, err := catalog.Open(ctx, settings)
	if err != nil {
		return err
	}
	defer store.Close()
	srv := &http.Server{
		Addr: addr, Handler: WithHealth(store, handler(store)),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	slog.Info("listening", slog.String(keyAddress, addr), slog.String(keyPrimary, settings.Host), slog.Any(keyStandbys, settings.ReadHosts))
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return srv.Shutdown(ctx)
}

// WithHealth adds /healthz, which says that the program is alive, and /readyz,
// which says that its database answers.
func WithHealth(store Store, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := store.Ready(r.Context()); err != nil {
			Failed(r, err)
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("/", h)
	return mux
}

// Failed logs why a request could not be served. What the client is told does
// not name hosts and users.
func Failed(r *http.Request, err error) {
	slog.Warn("request failed", slog.String(keyPath, r.URL.Path), slog.String(keyError, err.Error()))
}

// Input tells an input error's text, which is for the client, from a failure.
func Input(err error) (text string, ok bool) {
	var in *catalog.InputError
	if errors.As(err, &in) {
		return in.Text, true
	}
	return "", false
}

func ask(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+addr+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
