package image

import (
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/image"
)

func (rt *Router) tag(w http.ResponseWriter, r *http.Request) error {
	ref, err := domain.ParseRef(r.FormValue("repo"), r.FormValue("tag"))
	if err != nil {
		return err
	}
	if ref == nil {
		return fault.New(errdefs.ErrInvalidArgument, "invalid reference format")
	}
	if err := rt.b.Tag(r.Context(), route.Var(r, "name"), ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	name := route.Var(r, "name")
	if strings.TrimSpace(name) == "" {
		return fault.New(errdefs.ErrInvalidArgument, "image name cannot be blank")
	}
	o := domain.RemoveOptions{Force: route.Bool(r, "force")}
	if route.AtLeast(r.Context(), "1.50") {
		for _, v := range r.Form["platforms"] {
			p, err := decodePlatform(v)
			if err != nil {
				return err
			}
			o.Platforms = append(o.Platforms, *p)
		}
	}
	// noprune means nothing here: there are no untagged parents to keep.
	out, err := rt.b.Remove(r.Context(), name, o)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	out, err := rt.b.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) save(w http.ResponseWriter, r *http.Request) error {
	refs := r.Form["names"]
	if name := route.Var(r, "name"); name != "" {
		refs = []string{name}
	}
	want, err := decodePlatforms(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return rt.b.Save(r.Context(), refs, want, w)
}

func (rt *Router) load(w http.ResponseWriter, r *http.Request) error {
	want, err := decodePlatforms(r)
	if err != nil {
		return err
	}
	out := route.NewMessages(w, domain.WriteError)
	err = rt.b.Load(r.Context(), r.Body, want, out, route.BoolOr(r, "quiet", true))
	if err != nil {
		// Always in the stream: clients look there, and not at the status.
		domain.WriteError(out, err)
		swallow(r)
		return nil
	}
	return out.End(nil)
}

// swallow takes the rest of a body that was refused. Were the connection closed
// under it, the client might see that and not the error.
func swallow(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // ends with the client at the latest
}

func (rt *Router) create(w http.ResponseWriter, r *http.Request) error {
	if r.FormValue("fromImage") != "" {
		return rt.pull(w, r)
	}
	return rt.importTar(w, r)
}

func (rt *Router) importTar(w http.ResponseWriter, r *http.Request) error {
	ref, err := domain.ParseRef(r.FormValue("repo"), r.FormValue("tag"))
	if err != nil {
		return err
	}
	o := domain.ImportOptions{Ref: ref, Comment: r.FormValue("message"), Changes: r.Form["changes"]}
	src := r.FormValue("fromSrc")
	if o.Comment == "" {
		o.Comment = "Imported from " + src
	}
	if p := r.FormValue("platform"); p != "" && route.AtLeast(r.Context(), "1.32") {
		platform, err := platforms.Parse(p)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
		o.Platform = &platform
	}
	out := route.NewMessages(w, domain.WriteError)
	body := io.Reader(r.Body)
	if src != "-" {
		resp, err := download(r.Context(), src)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		p := domain.NewProgress(out)
		p.Message("", "Downloading from "+resp.Request.URL.Redacted())
		body = &told{Reader: resp.Body, p: p, t: resp.ContentLength}
	}
	id, err := rt.b.Import(r.Context(), body, o)
	if err == nil {
		domain.NewProgress(out).Message("", id)
	} else {
		swallow(r)
	}
	return out.End(err)
}

func (rt *Router) pull(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimSuffix(r.FormValue("fromImage"), ":") // `pull -a` of old clients sends the colon
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if tag := r.FormValue("tag"); tag != "" {
		if d, derr := digest.Parse(tag); derr == nil {
			ref, err = reference.WithDigest(reference.TrimNamed(ref), d)
		} else {
			ref, err = reference.WithTag(ref, tag)
		}
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
	}
	if n := reference.FamiliarName(ref); n == "scratch" {
		return fault.New(errdefs.ErrPermissionDenied, "'%s' is a reserved name", n)
	}
	o := domain.PullOptions{Remote: remote(r)}
	if p := r.FormValue("platform"); p != "" && route.AtLeast(r.Context(), "1.32") {
		platform, err := platforms.Parse(p)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
		o.Platform = &platform
	}
	out := route.NewMessages(w, domain.WriteError)
	return out.End(rt.b.Pull(r.Context(), ref, o, out))
}

func (rt *Router) push(w http.ResponseWriter, r *http.Request) error {
	name := route.Var(r, "name")
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if tag := r.FormValue("tag"); tag != "" {
		if ref, err = domain.ParseRef(name, tag); err != nil {
			return err
		}
	}
	o := domain.PushOptions{Remote: remote(r)}
	if p := r.FormValue("platform"); p != "" && route.AtLeast(r.Context(), "1.46") {
		if o.Platform, err = decodePlatform(p); err != nil {
			return err
		}
	}
	out := route.NewMessages(w, domain.WriteError)
	return out.End(rt.b.Push(r.Context(), ref, o, out))
}

func remote(r *http.Request) domain.Remote {
	auth, headers := route.Registry(r)
	return domain.Remote{Auth: auth, Headers: headers}
}
