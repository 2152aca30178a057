package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// Blob is content that was opened.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Source is what a registry serves. Unknown things are errdefs.ErrNotFound.
type Source interface {
	// Blob opens content that the repository has; the caller closes it.
	Blob(ctx context.Context, repo string, d digest.Digest) (Blob, error)
	// Manifest tells what a tag or digest of the repository means.
	Manifest(ctx context.Context, repo, ref string) (ocispec.Descriptor, error)
}

// NamedAt annotates what a Source's name means with the time it got it.
const NamedAt = "holdfast.named"

// namedHeader tells that to clients.
const namedHeader = "Holdfast-Named"

// Lister is a Source that can tell what it has.
type Lister interface {
	// Tags are in order. It is errdefs.ErrNotFound where there is no such repository.
	Tags(ctx context.Context, repo string) ([]string, error)
	// Repositories are in order.
	Repositories(ctx context.Context) ([]string, error)
	// Referrers are the manifests whose subject is d.
	Referrers(ctx context.Context, repo string, d digest.Digest) ([]ocispec.Descriptor, error)
}

// Options change what a handler does.
type Options struct {
	Log *slog.Logger
	// Domains: repositories are of other registries; which, says the parameter
	// "ns" (docker.io where it is missing), and it comes before the repository's name.
	Domains bool
}

// Handler serves a Source. It is read-only unless the source is a Writer.
type Handler struct {
	src   Source
	write Writer // nil: read-only
	list  Lister // nil: it does not tell
	o     Options
}

// NewHandler returns the handler of a source.
func NewHandler(src Source, o Options) *Handler {
	h := &Handler{src: src, o: o}
	h.write, _ = src.(Writer)
	h.list, _ = src.(Lister)
	return h
}

// Limits of what is read from clients.
const (
	nameLimit     = 255
	manifestLimit = 4 << 20 // what the specification asks registries to take at least
	pageLimit     = 1000
)

var (
	repoPattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	domainPattern = regexp.MustCompile(`^[a-zA-Z0-9.-]+(:[0-9]{1,5})?$`)
)

// request is a request that was understood.
type request struct {
	repo string // with its domain, if there are some
	name string // as the path has it
	kind string // blobs, uploads, manifests, tags, referrers, catalog or "" for the root
	ref  string // digest, tag or upload
}

// parse understands a path. What it returns is safe to make paths of.
func parse(path string) (request, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || ok && rest == "":
		return request{}, nil
	case !ok:
		return request{}, errNotFound
	case rest == "_catalog":
		return request{kind: "catalog"}, nil
	}
	var r request
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		r = request{name: name, kind: "tags"}
	} else if i := strings.LastIndex(rest, "/"); i >= 0 {
		r.ref = rest[i+1:]
		rest = rest[:i]
		for _, kind := range []string{"blobs/uploads", "blobs", "manifests", "referrers"} {
			if name, ok := strings.CutSuffix(rest, "/"+kind); ok {
				r.name, r.kind = name, kind
				break
			}
		}
		if r.kind == "blobs" && r.ref == "uploads" {
			r.kind, r.ref = "blobs/uploads", "" // without its slash
		}
	}
	if r.kind == "" {
		return r, errNotFound
	}
	if len(r.name) > nameLimit || !repoPattern.MatchString(r.name) {
		return r, problem(http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
	}
	switch r.kind {
	case "blobs", "referrers":
		if err := digest.Digest(r.ref).Validate(); err != nil {
			return r, problem(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		}
	case "manifests":
		if !isDigest(r.ref) && !tagPattern.MatchString(r.ref) {
			if strings.Contains(r.ref, ":") {
				return r, problem(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
			}
			return r, problem(http.StatusBadRequest, "TAG_INVALID", "invalid tag")
		}
	case "blobs/uploads":
		if r.ref != "" && !uploadPattern.MatchString(r.ref) {
			return r, problem(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
		}
	}
	return r, nil
}

func isDigest(s string) bool { return digest.Digest(s).Validate() == nil }

// apiError is an error as the protocol tells it.
type apiError struct {
	status        int
	code, message string
}

// Error implements error.
func (e *apiError) Error() string { return e.message }

func problem(status int, code, message string) error { return &apiError{status, code, message} }

var (
	errNotFound    = problem(http.StatusNotFound, "NOT_FOUND", "no such page")
	errMethod      = problem(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry does not do that")
	errUnavailable = problem(http.StatusInternalServerError, "UNKNOWN", "internal error")
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	err := h.serve(w, r)
	if err == nil {
		return
	}
	var e *apiError
	if !errors.As(err, &e) {
		if r.Context().Err() == nil {
			h.o.Log.Error("request to the registry failed", logkey.Method, r.Method, logkey.Path, r.URL.Path, logkey.Err, err)
		}
		e = &apiError{http.StatusInternalServerError, "UNKNOWN", errUnavailable.Error()}
	}
	body, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": e.code, "message": e.message}}})
	if err != nil {
		http.Error(w, e.message, e.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that went hears nothing
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	req, err := parse(r.URL.Path)
	if err != nil {
		return err
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problem(http.StatusBadRequest, "UNSUPPORTED", "invalid query")
	}
	req.repo = req.name
	if h.o.Domains {
		domain := q.Get("ns")
		if domain == "" {
			domain = "docker.io"
		}
		if len(domain) > nameLimit || !domainPattern.MatchString(domain) {
			return problem(http.StatusBadRequest, "NAME_INVALID", "invalid registry name")
		}
		req.repo = domain + "/" + req.name
	}
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case req.kind == "" && reading:
		return reply(w, r, map[string]any{})
	case req.kind == "blobs" && reading:
		return h.getBlob(w, r, req)
	case req.kind == "manifests" && reading:
		return h.getManifest(w, r, req)
	case req.kind == "tags" && reading && h.list != nil:
		return h.tags(w, r, req, q)
	case req.kind == "catalog" && reading && h.list != nil:
		return h.catalog(w, r, q)
	case req.kind == "referrers" && reading && h.list != nil:
		return h.referrers(w, r, req, q)
	case h.write != nil:
		return h.change(w, r, req, q)
	}
	return errMethod
}

func reply(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(b)
	}
	return nil
}

func (h *Handler) getBlob(w http.ResponseWriter, r *http.Request, req request) error {
	d := digest.Digest(req.ref)
	b, err := h.src.Blob(r.Context(), req.repo, d)
	if errdefs.IsNotFound(err) {
		return problem(http.StatusNotFound, "BLOB_UNKNOWN", "the blob is not known to the registry")
	}
	if err != nil {
		return err
	}
	defer b.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	// The digest never means anything else: ranges and conditions are answered by it.
	w.Header().Set("Etag", strconv.Quote(d.String()))
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(b, 0, b.Size()))
	return nil
}

func (h *Handler) getManifest(w http.ResponseWriter, r *http.Request, req request) error {
	unknown := problem(http.StatusNotFound, "MANIFEST_UNKNOWN", "the manifest is not known to the registry")
	d, err := h.src.Manifest(r.Context(), req.repo, req.ref)
	if errdefs.IsNotFound(err) {
		return unknown
	}
	if err != nil {
		return err
	}
	b, err := h.src.Blob(r.Context(), req.repo, d.Digest)
	if errdefs.IsNotFound(err) {
		return unknown
	}
	if err != nil {
		return err
	}
	defer b.Close()
	if at := d.Annotations[NamedAt]; at != "" {
		w.Header().Set(namedHeader, at)
	}
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("Etag", strconv.Quote(d.Digest.String()))
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(b, 0, b.Size()))
	return nil
}

// page is the part of a list that was asked for. more: there is one after it.
func page(all []string, q url.Values) (part []string, more bool, err error) {
	n := len(all)
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return nil, false, problem(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results")
		}
	}
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if n = min(n, pageLimit); len(all) > n {
		return all[:n], n > 0, nil
	}
	return all, false, nil
}

// link tells where the next page is.
func link(w http.ResponseWriter, path string, part []string) {
	q := url.Values{"n": {strconv.Itoa(len(part))}, "last": {part[len(part)-1]}}
	w.Header().Set("Link", "<"+path+"?"+q.Encode()+`>; rel="next"`)
}

func (h *Handler) tags(w http.ResponseWriter, r *http.Request, req request, q url.Values) error {
	all, err := h.list.Tags(r.Context(), req.repo)
	if errdefs.IsNotFound(err) {
		return problem(http.StatusNotFound, "NAME_UNKNOWN", "the repository is not known to the registry")
	}
	if err != nil {
		return err
	}
	part, more, err := page(all, q)
	if err != nil {
		return err
	}
	if more {
		link(w, r.URL.Path, part)
	}
	return reply(w, r, map[string]any{"name": req.name, "tags": append([]string{}, part...)})
}

func (h *Handler) catalog(w http.ResponseWriter, r *http.Request, q url.Values) error {
	all, err := h.list.Repositories(r.Context())
	if err != nil {
		return err
	}
	part, more, err := page(all, q)
	if err != nil {
		return err
	}
	if more {
		link(w, r.URL.Path, part)
	}
	return reply(w, r, map[string]any{"repositories": append([]string{}, part...)})
}

func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, req request, q url.Values) error {
	all, err := h.list.Referrers(r.Context(), req.repo, digest.Digest(req.ref))
	if err != nil {
		return err
	}
	out := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	want := q.Get("artifactType")
	for _, d := range all {
		if want == "" || d.ArtifactType == want {
			out.Manifests = append(out.Manifests, d)
		}
	}
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	return reply(w, r, out)
}
