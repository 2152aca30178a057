package imagestore

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

// indexServer is where the default registry is searched: another host than the
// one that has its images.
const indexServer = "index.docker.io"

// Search implements image.Registry. The search is of the protocol's first
// version and has no successor: a registry that lacks it says so by its status.
func (s *Store) Search(ctx context.Context, index, term string, limit int, r image.Remote) ([]registry.SearchResult, error) {
	a, err := s.access(ctx, index, r, nil)
	if err != nil {
		return nil, err
	}
	defer a.close()
	h := a.hosts[len(a.hosts)-1] // after the mirrors, the registry itself
	h.Path = "/v1"
	if index == defaultRegistry {
		h.Scheme, h.Host = "https", indexServer
	} else if err := a.answers(ctx, index, h, s.d.Hosts.insecure(ctx, index)); err != nil {
		return nil, err
	}
	if auth := forDomain(index, r.Auth); auth.IdentityToken == "" && auth.RegistryToken == "" {
		// The first version of the protocol wants them unasked.
		h.Authorizer = nil
		if auth.Username != "" {
			h.Header = h.Header.Clone()
			if h.Header == nil {
				h.Header = http.Header{}
			}
			h.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(auth.Username+":"+auth.Password)))
		}
	}
	a.headers.Set("X-Docker-Token", "true")
	q := url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}
	resp, err := a.request(docker.WithScope(ctx, "registry:catalog:search"), h, base(h)+"/search?"+q.Encode())
	if err != nil {
		return nil, fault.New(errdefs.ErrUnknown, "%s", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(errdefs.ErrUnknown, "Unexpected status code %d", resp.StatusCode)
	}
	var out registry.SearchResults
	if err := json.NewDecoder(io.LimitReader(resp.Body, jsonLimit)).Decode(&out); err != nil {
		return nil, fault.New(errdefs.ErrUnknown, "error decoding registry search results: %s", err)
	}
	return out.Results, nil
}

// answers asks the registry for a sign of life, so that one that cannot be
// reached is told apart from one that does not know what a search is.
func (a *access) answers(ctx context.Context, index string, h docker.RegistryHost, insecure bool) error {
	h.Authorizer = nil
	resp, err := a.request(ctx, h, base(h)+"/_ping")
	if err == nil {
		return resp.Body.Close() // whatever it says
	}
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case insecure:
		return fault.New(errdefs.ErrInvalidArgument, "invalid registry endpoint %q: %s", base(h)+"/", err)
	}
	return fault.New(errdefs.ErrInvalidArgument, "invalid registry endpoint %s/: %s. "+
		"If this private registry supports only HTTP or HTTPS with an unknown CA certificate, "+
		"add `--insecure-registry %s` to the daemon's arguments. "+
		"In the case of HTTPS, if you have access to the registry's CA certificate, no need for the flag; "+
		"simply place the CA certificate at /etc/docker/certs.d/%s/ca.crt", base(h), err, index, index)
}
