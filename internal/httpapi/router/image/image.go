// Package image serves /images: it reads requests, calls the image domain
// through Backend and writes replies in the form of the asked-for API version.
package image

import (
	"context"
	"io"
	"net/http"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/image"
)

// Backend is what the routes need of the image domain.
type Backend interface {
	List(ctx context.Context, o domain.ListOptions) ([]image.Summary, error)
	Inspect(ctx context.Context, ref string, o domain.InspectOptions) (image.InspectResponse, error)
	History(ctx context.Context, ref string, want *ocispec.Platform) ([]image.HistoryResponseItem, error)
	Attestations(ctx context.Context, ref string, o domain.AttestationOptions) ([]image.AttestationStatement, error)
	Tag(ctx context.Context, ref string, name reference.Named) error
	Remove(ctx context.Context, ref string, o domain.RemoveOptions) ([]image.DeleteResponse, error)
	Prune(ctx context.Context, filters map[string][]string) (image.PruneReport, error)
	Import(ctx context.Context, r io.Reader, o domain.ImportOptions) (string, error)
	Load(ctx context.Context, r io.Reader, wanted []ocispec.Platform, out io.Writer, quiet bool) error
	Save(ctx context.Context, refs []string, want []ocispec.Platform, w io.Writer) error
	Pull(ctx context.Context, ref reference.Named, o domain.PullOptions, out io.Writer) error
	Push(ctx context.Context, ref reference.Named, o domain.PushOptions, out io.Writer) error
	Search(ctx context.Context, o domain.SearchOptions) ([]registry.SearchResult, error)
}

// Router serves /images.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b: b} }

var _ route.Router = (*Router)(nil)

// Routes implements route.Router. Names hold slashes: the patterns with a fixed
// last part come first.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: "/images/json", Handler: rt.list},
		{Method: http.MethodGet, Path: "/images/search", Handler: rt.search},
		{Method: http.MethodGet, Path: "/images/get", Handler: rt.save},
		{Method: http.MethodGet, Path: "/images/{name:.*}/get", Handler: rt.save},
		{Method: http.MethodGet, Path: "/images/{name:.*}/history", Handler: rt.history},
		{Method: http.MethodGet, Path: "/images/{name:.*}/json", Handler: rt.inspect},
		{Method: http.MethodGet, Path: "/images/{name:.*}/attestations", Handler: rt.attestations},
		{Method: http.MethodPost, Path: "/images/load", Handler: rt.load},
		{Method: http.MethodPost, Path: "/images/create", Handler: rt.create},
		{Method: http.MethodPost, Path: "/images/prune", Handler: rt.prune},
		{Method: http.MethodPost, Path: "/images/{name:.*}/push", Handler: rt.push},
		{Method: http.MethodPost, Path: "/images/{name:.*}/tag", Handler: rt.tag},
		{Method: http.MethodDelete, Path: "/images/{name:.*}", Handler: rt.remove},
	}
}
