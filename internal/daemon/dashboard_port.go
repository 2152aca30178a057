package daemon

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/base/webtoken"
	"holdfast.dev/holdfast/internal/httpapi"
)

// The dashboard on a port of its own, for browsers that are given a token. Nothing
// else of the API is there.

func (d *Daemon) tokenFile() string { return filepath.Join(d.cfg.Root, "dashboard-token") }

// dashboardToken reads the token, or makes one. Who may read the file is in: it is
// the daemon's user's alone, whatever it was before.
func (d *Daemon) dashboardToken() (string, error) {
	path := d.tokenFile()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the dashboard's token: %w", err)
	}
	if token := strings.TrimSpace(string(b)); len(token) >= minToken {
		if err := os.Chmod(path, 0o600); err != nil {
			return "", fmt.Errorf("keep the dashboard's token to ourselves: %w", err)
		}
		return token, nil
	} else if token != "" {
		return "", fmt.Errorf("the dashboard's token in %s is shorter than %d characters: remove the file, and a new one is made", path, minToken)
	}
	token := rand.Text()
	if err := atomicfile.Write(path, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the dashboard's token: %w", err)
	}
	return token, nil
}

// minToken is the shortest token that nobody guesses.
const minToken = 16

// listenDashboard opens the port, if one is asked for.
func (d *Daemon) listenDashboard(ctx context.Context) (net.Listener, error) {
	if d.cfg.DashboardAddr == "" {
		return nil, nil //nolint:nilnil // nobody asked
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.cfg.DashboardAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for the dashboard: %w", err)
	}
	if !d.cfg.UseTLS() {
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			d.log.Warn("the dashboard can be reached from other machines, and what it says, the token too, is not encrypted", logkey.Address, a.String())
		}
		return l, nil
	}
	// A person's browser has no certificate: the token says who it is.
	c, err := httpapi.LoadTLS(httpapi.TLSFiles{Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tls.NewListener(l, c), nil
}

// serveDashboard serves the pages at l, which may be nil, until ctx ends.
func (d *Daemon) serveDashboard(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
	}
	token, err := d.dashboardToken()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	cookie := "holdfast-dashboard"
	if a, ok := l.Addr().(*net.TCPAddr); ok { // browsers keep cookies by host, whatever the port
		cookie += "-" + strconv.Itoa(a.Port)
	}
	srv := &http.Server{
		Handler:           webtoken.Require(token, cookie, "it is in the file "+d.tokenFile()+" of the machine", d.pages),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	d.log.Info("dashboard listening", logkey.Address, l.Addr().String(), logkey.Path, d.tokenFile())
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { closed <- srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) || stop() {
		return fmt.Errorf("serve the dashboard: %w", err)
	}
	return <-closed
}
