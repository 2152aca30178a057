package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/registry"
)

func newRegistry(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry COMMAND",
		Short: "Run an image registry",
		Args:  dockercli.NoArgs,
		RunE:  command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newRegistryServe(dockerCli))
	return cmd
}

// serveOptions are the flags of `registry serve`.
type serveOptions struct {
	listen             string
	cert, key, clients string
	every              time.Duration
	dir                registry.DirOptions
}

func newRegistryServe(dockerCli command.Cli) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [OPTIONS] DIRECTORY",
		Short: "Serve an image registry from a directory",
		Long: `Serve an image registry (OCI distribution) from a directory, until it is stopped.
It needs no engine. Everybody who reaches it may read and write: without --tls-cert
it listens on loopback addresses only, and --tls-client-ca lets in who has a
certificate of that authority.

Deleting is a request as the specification has it. What no tag or manifest leads to
is collected while the registry is used.`,
		Args: dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRegistryServe(cmd.Context(), dockerCli, args[0], o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:5000", "Address and port to listen on")
	flags.StringVar(&o.cert, "tls-cert", "", "Certificate to show (PEM file)")
	flags.StringVar(&o.key, "tls-key", "", "Key of the certificate (PEM file)")
	flags.StringVar(&o.clients, "tls-client-ca", "", "Let in only who has a certificate of this authority (PEM file)")
	flags.DurationVar(&o.every, "gc-interval", 10*time.Minute, "How often garbage is collected")
	flags.DurationVar(&o.dir.Grace, "gc-grace", time.Hour, "How long a blob may wait for its manifest, and an upload for its next part")
	flags.DurationVar(&o.dir.Untagged, "gc-untagged", 0, "Collect manifests without a tag that are older than this (0: keep them)")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	return cmd
}

// checkListen refuses to show a registry that anybody may write to to others.
func checkListen(addr string, secure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", addr, err)
	}
	if secure || host == "localhost" {
		return nil
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
		return fmt.Errorf("--listen %s: without --tls-cert only loopback addresses are listened on", addr)
	}
	return nil
}

func (o serveOptions) tls() (*tls.Config, error) {
	if o.cert == "" {
		if o.clients != "" {
			return nil, errors.New("--tls-client-ca needs --tls-cert")
		}
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if o.clients == "" {
		return c, nil
	}
	pem, err := os.ReadFile(o.clients)
	if err != nil {
		return nil, fmt.Errorf("read the clients' authority: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", o.clients)
	}
	return c, nil
}

func runRegistryServe(ctx context.Context, dockerCli command.Cli, dir string, o serveOptions) (err error) {
	secure, err := o.tls()
	if err != nil {
		return err
	}
	if err := checkListen(o.listen, secure != nil); err != nil {
		return err
	}
	if o.every <= 0 || o.dir.Grace <= 0 || o.dir.Untagged < 0 {
		return errors.New("--gc-interval and --gc-grace must be more than nothing, --gc-untagged not less")
	}
	log := slog.New(slog.NewTextHandler(dockerCli.Err(), nil))
	o.dir.Log, o.dir.Clock = log, clock.System{}
	d, err := registry.OpenDir(dir, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	scheme := "http"
	if secure != nil {
		l, scheme = tls.NewListener(l, secure), "https"
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := &http.Server{
		Handler:           registry.NewHandler(d, registry.Options{Log: log}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	fmt.Fprintf(dockerCli.Out(), "Serving %s on %s://%s\n", strings.TrimSuffix(dir, "/"), scheme, l.Addr())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Run(gctx, o.every) })
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		// What is on its way may end.
		end, cancel := context.WithTimeout(context.WithoutCancel(gctx), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(end); err != nil {
			return s.Close()
		}
		return nil
	})
	return g.Wait()
}
