package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

// Resolve implements image.Registry.
func (s *Store) Resolve(ctx context.Context, ref string, r image.Remote) (ocispec.Descriptor, error) {
	a, err := s.reach(ctx, ref, r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer a.close()
	_, d, err := a.resolver().Resolve(ctx, ref)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return d, fault.New(errdefs.ErrNotFound, "failed to resolve reference %q: %s", ref, err)
		}
		return d, fromRegistry(ref, err)
	}
	return d, nil
}

func (s *Store) reach(ctx context.Context, ref string, r image.Remote) (*access, error) {
	domain, err := domainOf(ref)
	if err != nil {
		return nil, err
	}
	return s.access(ctx, domain, r, nil)
}

// fromRegistry gives a registry's error Docker's class and text.
func fromRegistry(ref string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		if strings.Contains(err.Error(), "no basic auth credentials") {
			return fault.New(errdefs.ErrUnknown, "%s", err)
		}
		name := ref
		if n, perr := reference.ParseNormalizedNamed(ref); perr == nil {
			name = reference.FamiliarName(n)
		}
		return fault.New(errdefs.ErrNotFound,
			"pull access denied for %s, repository does not exist or may require 'docker login'", name)
	}
	var status remoteerrors.ErrUnexpectedStatus
	if !errors.As(err, &status) {
		return err
	}
	var body docker.Errors
	if json.Unmarshal(status.Body, &body) != nil || len(body) == 0 {
		return err
	}
	var first docker.Error
	if !errors.As(body[0], &first) {
		return err
	}
	text := first.Message
	if text == "" {
		text = first.Code.Message()
	}
	if detail, ok := first.Detail.(string); ok {
		text += " - " + detail
	}
	return fault.New(classOf(status.StatusCode), "error from registry: %s", text)
}

func classOf(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusServiceUnavailable:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}

// Fetch implements image.Registry.
func (s *Store) Fetch(ctx context.Context, ref string, d ocispec.Descriptor, r image.Remote) ([]byte, error) {
	a, err := s.reach(ctx, ref, r)
	if err != nil {
		return nil, err
	}
	defer a.close()
	f, err := a.resolver().Fetcher(ctx, ref)
	if err != nil {
		return nil, fromRegistry(ref, err)
	}
	rc, err := f.Fetch(ctx, d)
	if err != nil {
		return nil, fromRegistry(ref, err)
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, jsonLimit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s from the registry: %w", d.Digest, err)
	}
	if len(b) > jsonLimit {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s is too long for a manifest or config", d.Digest)
	}
	if d.Digest != "" && d.Digest.Algorithm().FromBytes(b) != d.Digest {
		return nil, fault.New(errdefs.ErrDataLoss, "the registry sent something else than %s", d.Digest)
	}
	return b, nil
}

// request asks a host of the registry, answering its challenge once if the host
// has an authorizer.
func (a *access) request(ctx context.Context, h docker.RegistryHost, address string) (*http.Response, error) {
	var before []*http.Response
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		r.Header = a.headers.Clone()
		for k, v := range h.Header {
			r.Header[k] = v
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, r); err != nil {
				return nil, err
			}
		}
		resp, err := h.Client.Do(r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || len(before) > 0 || h.Authorizer == nil {
			return resp, nil
		}
		before = append(before, resp)
		err = h.Authorizer.AddResponses(ctx, before)
		if cerr := resp.Body.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
	}
}

func base(h docker.RegistryHost) string { return h.Scheme + "://" + h.Host + h.Path }

// tagLimit bounds the pages of a list of tags.
const tagLimit = 200

// Tags implements image.Registry.
func (s *Store) Tags(ctx context.Context, repository string, r image.Remote) ([]string, error) {
	n, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	a, err := s.access(ctx, reference.Domain(n), r, nil)
	if err != nil {
		return nil, err
	}
	defer a.close()
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(n)+":pull")
	var last error
	for _, h := range a.hosts {
		if !h.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		tags, err := a.tags(ctx, h, reference.Path(n))
		if err == nil {
			return tags, nil
		}
		last = fromRegistry(repository, err)
	}
	if last == nil {
		last = fault.New(errdefs.ErrNotFound, "no host serves %s", repository)
	}
	return nil, last
}

func (a *access) tags(ctx context.Context, h docker.RegistryHost, repo string) ([]string, error) {
	var out []string
	next := base(h) + "/" + repo + "/tags/list"
	for range tagLimit {
		var page struct{ Tags []string }
		link, err := a.page(ctx, h, next, &page)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Tags...)
		if link == "" {
			return out, nil
		}
		next = link
	}
	return nil, fault.New(errdefs.ErrOutOfRange, "the repository has too many tags")
}

// page reads one page of a list and returns the address of the next.
func (a *access) page(ctx context.Context, h docker.RegistryHost, address string, v any) (string, error) {
	resp, err := a.request(ctx, h, address)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", remoteerrors.NewUnexpectedStatusErr(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, jsonLimit)).Decode(v); err != nil {
		return "", fmt.Errorf("read list from the registry: %w", err)
	}
	link := resp.Header.Get("Link")
	from, to := strings.Index(link, "<"), strings.Index(link, ">")
	if from < 0 || to < from || !strings.Contains(link, `rel="next"`) {
		return "", nil
	}
	u, err := resp.Request.URL.Parse(link[from+1 : to])
	if err != nil || u.Host != resp.Request.URL.Host {
		return "", fault.New(errdefs.ErrInvalidArgument, "the registry's next page %q is nowhere on it", link)
	}
	return u.String(), nil
}

// Login implements image.Registry.
func (s *Store) Login(ctx context.Context, auth image.Auth) (string, error) {
	domain := serverHost(auth.ServerAddress)
	if domain == "" || strings.HasSuffix(domain, "."+defaultRegistry) {
		domain = defaultRegistry // as references name it
	}
	if _, err := url.Parse("https://" + domain); err != nil {
		return "", fault.New(errdefs.ErrInvalidArgument, "invalid registry address %q", auth.ServerAddress)
	}
	auth.ServerAddress = domain
	token := ""
	a, err := s.access(ctx, domain, image.Remote{Auth: auth}, func(_ context.Context, t string, _ *http.Request) { token = t })
	if err != nil {
		return "", err
	}
	defer a.close()
	h := a.hosts[len(a.hosts)-1] // after the mirrors, the registry itself
	address := base(h) + "/"
	resp, err := a.request(ctx, h, address)
	if err != nil {
		var status remoteerrors.ErrUnexpectedStatus
		if errors.As(err, &status) {
			return "", fault.New(classOf(status.StatusCode), "login attempt to %s failed with status: %s", address, status.Status)
		}
		if errors.Is(err, docker.ErrInvalidAuthorization) {
			return "", fault.New(errdefs.ErrUnauthenticated, "Get %q: unauthorized: incorrect username or password", address)
		}
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fault.New(classOf(resp.StatusCode), "login attempt to %s failed with status: %s", address, resp.Status)
	}
	return token, nil
}
