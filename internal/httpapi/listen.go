package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// ListenOptions say who may connect.
type ListenOptions struct {
	Log *slog.Logger
	// Group owns unix sockets (name or number); empty: the daemon's own group.
	Group string
	// GroupRequired makes a group that does not exist an error; else the
	// daemon's own group is used, with a warning.
	GroupRequired bool
	// TLS for tcp sockets. Nil: tcp is refused unless PlainTCP says that the
	// user insists.
	TLS      *tls.Config
	PlainTCP bool
}

// Listen opens the sockets of one -H value: unix:///path, tcp://host:port,
// fd:// (all sockets of systemd's socket activation) or fd://NAME (or number).
func Listen(ctx context.Context, spec string, o ListenOptions) ([]net.Listener, error) {
	proto, addr, ok := strings.Cut(spec, "://")
	if !ok {
		return nil, fault.New(errdefs.ErrInvalidArgument, "invalid host %q: want unix:///path, tcp://host:port or fd://", spec)
	}
	switch proto {
	case "unix":
		return one(listenUnix(ctx, addr, o))
	case "tcp":
		return one(listenTCP(ctx, addr, o))
	case "fd":
		return listenFD(addr, o)
	}
	return nil, fault.New(errdefs.ErrInvalidArgument, "invalid host %q: protocol %q is not unix, tcp or fd", spec, proto)
}

func one(l net.Listener, err error) ([]net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

func listenTCP(ctx context.Context, addr string, o ListenOptions) (net.Listener, error) {
	if err := checkTCP(o); err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return secure(l, o), nil
}

// checkTCP holds that nobody opens the engine to the network by accident:
// whoever reaches the API is root on this machine.
func checkTCP(o ListenOptions) error {
	if o.TLS == nil && !o.PlainTCP {
		return fault.New(errdefs.ErrFailedPrecondition,
			"tcp needs mutual TLS: give --tlsverify with --tlscacert, --tlscert and --tlskey (or insist on an open port, where anyone who reaches it is root here, with --tls=false)")
	}
	return nil
}

func secure(l net.Listener, o ListenOptions) net.Listener {
	if o.TLS != nil {
		return tls.NewListener(l, o.TLS)
	}
	o.Log.Warn("API open to the network without TLS: whoever reaches it is root on this machine", logkey.Address, l.Addr().String())
	return l
}

// listenFD takes the sockets that systemd opened for us.
func listenFD(name string, o ListenOptions) ([]net.Listener, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, err
	}
	var ls []net.Listener
	for n, group := range byName {
		if name == "" || name == "*" || n == name || n == "LISTEN_FD_"+name {
			ls = append(ls, group...)
		}
	}
	if len(ls) == 0 {
		return nil, fault.New(errdefs.ErrFailedPrecondition, "no socket was passed by systemd (socket activation)")
	}
	for i, l := range ls {
		if l.Addr().Network() != "tcp" {
			continue
		}
		if err := checkTCP(o); err != nil {
			return nil, err
		}
		ls[i] = secure(l, o)
	}
	return ls, nil
}

// listenUnix makes the socket. It is made with mode 0600 and opened to the
// group when that owns it, so that there is no moment when others may connect.
func listenUnix(ctx context.Context, path string, o ListenOptions) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fault.New(errdefs.ErrInvalidArgument, "the path of a unix socket must be absolute, e.g. unix:///run/holdfast.sock")
	}
	gid, err := lookupGroup(o)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		// On Linux the mode of the unbound socket becomes the mode of its file.
		if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// clearStale removes the socket of a daemon that is gone, and nothing else.
func clearStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fault.New(errdefs.ErrAlreadyExists, "%s is there and is not a socket", path)
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fault.New(errdefs.ErrAlreadyExists, "another program is listening on it"), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("find out whether the socket is in use: %w", err)
}

// lookupGroup returns -1 where the daemon's own group shall stay.
func lookupGroup(o ListenOptions) (int, error) {
	if o.Group == "" {
		return -1, nil
	}
	if gid, err := strconv.Atoi(o.Group); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(o.Group)
	if err != nil {
		if o.GroupRequired {
			return 0, fault.New(errdefs.ErrNotFound, "group %s of the socket does not exist", o.Group)
		}
		o.Log.Warn("group of the API socket does not exist: only root can connect", logkey.Name, o.Group)
		return -1, nil
	}
	return strconv.Atoi(g.Gid)
}

// TLSFiles are the PEM files of a server.
type TLSFiles struct {
	CA, Cert, Key string
	// Verify asks every client for a certificate that CA signed.
	Verify bool
}

// LoadTLS reads the files.
func LoadTLS(f TLSFiles) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "read TLS certificate %s and key %s", f.Cert, f.Key)
	}
	// HTTP/1.1 alone: attach and exec take connections over.
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if !f.Verify {
		return c, nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "read TLS CA")
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fault.New(errdefs.ErrInvalidArgument, "read TLS CA %s: no certificate in it", f.CA)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}
