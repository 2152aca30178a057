package imagestore

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"holdfast.dev/holdfast/internal/image"
)

// HostOptions say how registries are reached. The zero value trusts the
// system's certificate authorities and nothing more, but for loopback.
type HostOptions struct {
	// CertsDirs hold a directory per registry host, with ca.crt, client.cert and
	// client.key or a hosts.toml as containerd reads it. The first that has the host counts.
	CertsDirs []string
	// Insecure are hosts ("registry:5000") and networks ("10.0.0.0/8") that may
	// speak plain HTTP or show any certificate. 127.0.0.0/8 and ::1 always may.
	Insecure []string
	// Mirrors are asked first for images of the default registry.
	Mirrors   []string
	UserAgent string
}

// defaultRegistry is the name that a reference without a host gets.
const defaultRegistry = "docker.io"

const dialLimit = 10 * time.Second

// CheckHosts says what is wrong with the options, for the daemon's start.
func CheckHosts(o HostOptions) error {
	for _, m := range o.Mirrors {
		if _, err := mirrorHost(m); err != nil {
			return err
		}
	}
	for _, i := range o.Insecure {
		if strings.Contains(i, "://") {
			return fmt.Errorf("insecure registry %s should not contain '://': %w", i, errdefs.ErrInvalidArgument)
		}
		if strings.Contains(i, "/") {
			if _, err := netip.ParsePrefix(i); err != nil {
				return fmt.Errorf("insecure registry %s is neither a host nor a network: %w", i, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// access is the way to one registry with one client's credentials.
type access struct {
	hosts   []docker.RegistryHost
	headers http.Header
	track   docker.StatusTracker
}

// close gives the connections back.
func (a *access) close() {
	for _, h := range a.hosts {
		h.Client.CloseIdleConnections()
	}
}

func (a *access) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return a.hosts, nil },
		Tracker: a.track,
		Headers: a.headers,
	})
}

// Registries tells how registries are reached, without credentials: whoever
// uses it brings his own authorizer.
func Registries(o HostOptions) docker.RegistryHosts {
	return func(domain string) ([]docker.RegistryHost, error) {
		ctx := context.Background()
		hosts, err := o.configured(ctx, domain)
		if err != nil || domain != defaultRegistry {
			return hosts, err
		}
		mirrors, err := o.mirrors(ctx)
		return append(mirrors, hosts...), err
	}
}

// configured finds the hosts of a domain, its mirrors aside.
func (o HostOptions) configured(ctx context.Context, domain string) ([]docker.RegistryHost, error) {
	opts := config.HostOptions{
		HostDir:      o.hostDir,
		UpdateClient: setDialLimit,
	}
	if o.insecure(ctx, domain) {
		opts.DefaultScheme = "http" // tried after TLS, see config.ConfigureHosts
		opts.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
	}
	hosts, err := config.ConfigureHosts(ctx, opts)(domain)
	if err != nil {
		return nil, fmt.Errorf("read how to reach registry %s: %w", domain, err)
	}
	return hosts, nil
}

// access finds the hosts of the domain and gives them the credentials.
func (s *Store) access(ctx context.Context, domain string, r image.Remote, tokens docker.OnFetchRefreshToken) (*access, error) {
	o := s.d.Hosts
	hosts, err := o.configured(ctx, domain)
	if err != nil {
		return nil, err
	}
	for i := range hosts {
		hosts[i].Authorizer = authorizer(domain, hosts[i], r.Auth, tokens)
	}
	if domain == defaultRegistry {
		mirrors, err := o.mirrors(ctx)
		if err != nil {
			return nil, err
		}
		hosts = append(mirrors, hosts...)
	}
	headers := http.Header(r.Headers).Clone()
	if headers == nil {
		headers = http.Header{}
	}
	if o.UserAgent != "" {
		headers.Set("User-Agent", o.UserAgent)
	}
	return &access{hosts: hosts, headers: headers, track: docker.NewInMemoryTracker()}, nil
}

// setDialLimit makes an unreachable registry an error soon.
func setDialLimit(c *http.Client) error {
	if t, ok := c.Transport.(*http.Transport); ok {
		t.DialContext = (&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext
	}
	return nil
}

// hostDir finds the directory of settings for a host.
func (o HostOptions) hostDir(host string) (string, error) {
	for _, root := range o.CertsDirs {
		dir, err := config.HostDirFromRoot(root)(host)
		if err == nil {
			return dir, nil
		}
		if !errdefs.IsNotFound(err) {
			return "", fmt.Errorf("look for registry settings: %w", err)
		}
	}
	return "", fmt.Errorf("no settings for registry %s: %w", host, errdefs.ErrNotFound)
}

// insecure says whether a host may do without verified TLS.
func (o HostOptions) insecure(ctx context.Context, host string) bool {
	if slices.Contains(o.Insecure, host) {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if slices.Contains(o.Insecure, name) || name == "localhost" {
		return true
	}
	var nets []netip.Prefix
	for _, i := range o.Insecure {
		if p, err := netip.ParsePrefix(i); err == nil {
			nets = append(nets, p)
		}
	}
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(name); err == nil {
		addrs = []netip.Addr{a}
	} else if len(nets) > 0 {
		// A name that doesn't resolve is in no network; reaching it will say so.
		addrs, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
	for _, a := range addrs {
		a = a.Unmap()
		if a.IsLoopback() {
			return true
		}
		for _, n := range nets {
			if n.Contains(a) {
				return true
			}
		}
	}
	return false
}

func mirrorHost(mirror string) (*url.URL, error) {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("invalid mirror %q: want http(s)://host[:port]: %w", mirror, errdefs.ErrInvalidArgument)
	}
	return u, nil
}

// mirrors are hosts to pull from before the default registry; they get no credentials.
func (o HostOptions) mirrors(ctx context.Context) ([]docker.RegistryHost, error) {
	var out []docker.RegistryHost
	for _, m := range o.Mirrors {
		u, err := mirrorHost(m)
		if err != nil {
			return nil, err
		}
		opts := config.HostOptions{HostDir: o.hostDir, UpdateClient: setDialLimit, DefaultScheme: u.Scheme}
		if o.insecure(ctx, u.Host) {
			opts.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
		}
		hosts, err := config.ConfigureHosts(ctx, opts)(u.Host)
		if err != nil {
			return nil, fmt.Errorf("read how to reach mirror %s: %w", m, err)
		}
		for _, h := range hosts {
			h.Path = path.Join("/", u.Path, "v2")
			h.Capabilities = docker.HostCapabilityPull | docker.HostCapabilityResolve
			out = append(out, h)
		}
	}
	return out, nil
}

// authorizer answers a host's challenges with the client's credentials, if they are for it.
func authorizer(domain string, h docker.RegistryHost, a image.Auth, tokens docker.OnFetchRefreshToken) docker.Authorizer {
	a = forDomain(domain, a)
	if a.RegistryToken != "" {
		return bearer{host: h.Host, token: a.RegistryToken}
	}
	opts := []docker.AuthorizerOpt{
		docker.WithAuthClient(h.Client),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			switch {
			case host != h.Host:
				return "", "", nil
			case a.IdentityToken != "":
				return "", a.IdentityToken, nil
			}
			return a.Username, a.Password, nil
		}),
	}
	if len(h.Header) > 0 {
		opts = append(opts, docker.WithAuthHeader(h.Header))
	}
	if tokens != nil {
		opts = append(opts, docker.WithFetchRefreshToken(tokens))
	}
	return &serial{Authorizer: docker.NewDockerAuthorizer(opts...)}
}

// forDomain are a client's credentials, if they are for this registry.
func forDomain(domain string, a image.Auth) image.Auth {
	if a.ServerAddress != "" && domain != defaultRegistry && serverHost(a.ServerAddress) != domain {
		return image.Auth{}
	}
	return a
}

// serial lets one request at a time authorize itself: containerd's authorizer
// reads a cached token's expiry while another request may be writing it.
type serial struct {
	docker.Authorizer
	mu sync.Mutex // held across the fetch of a token: the others want the same one
}

// Authorize implements docker.Authorizer.
func (s *serial) Authorize(ctx context.Context, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Authorizer.Authorize(ctx, r)
}

// serverHost takes the host from a login's server address, which may be a URL.
func serverHost(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// bearer sends a token that the client already has.
type bearer struct{ host, token string }

// Authorize implements docker.Authorizer.
func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	if r.URL.Host == b.host {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

// AddResponses implements docker.Authorizer: a refused token is not tried again.
func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("the registry refused the token: %w", errdefs.ErrNotImplemented)
}

// domainOf returns the registry that a reference names.
func domainOf(ref string) (string, error) {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("parse reference %q: %w", ref, errdefs.ErrInvalidArgument)
	}
	return reference.Domain(n), nil
}
