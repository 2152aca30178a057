package image

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/image"
)

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	if old := r.FormValue("filter"); old != "" && !route.AtLeast(ctx, "1.25") && len(filters["reference"]) == 0 {
		filters["reference"] = []string{old}
	}
	o := domain.ListOptions{
		All:        route.Bool(r, "all"),
		Filters:    filters,
		SharedSize: route.AtLeast(ctx, "1.42") && route.Bool(r, "shared-size"),
		Manifests:  route.AtLeast(ctx, "1.47") && route.Bool(r, "manifests"),
	}
	if route.AtLeast(ctx, "1.54") && route.Bool(r, "identity") && !o.Manifests {
		return fault.New(errdefs.ErrInvalidArgument, "conflicting options: identity requires manifests=1")
	}
	all, err := rt.b.List(ctx, o)
	if err != nil {
		return err
	}
	out := make([]any, len(all))
	for i := range all {
		s := &all[i]
		if !route.AtLeast(ctx, "1.43") && len(s.RepoTags) == 0 && len(s.RepoDigests) == 0 {
			s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if !route.AtLeast(ctx, "1.48") {
			s.Descriptor = nil
		}
		if !route.AtLeast(ctx, "1.51") {
			s.Containers = -1
		}
		out[i] = s
		if !route.AtLeast(ctx, "1.44") {
			out[i] = struct {
				*image.Summary
				VirtualSize int64
			}{s, s.Size}
		}
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	var o domain.InspectOptions
	o.Manifests = route.AtLeast(ctx, "1.48") && route.Bool(r, "manifests")
	if p := r.FormValue("platform"); p != "" && route.AtLeast(ctx, "1.49") {
		var err error
		if o.Platform, err = decodePlatform(p); err != nil {
			return err
		}
	}
	if o.Manifests && o.Platform != nil {
		return fault.New(errdefs.ErrInvalidArgument, "conflicting options: manifests and platform options cannot both be set")
	}
	img, err := rt.b.Inspect(ctx, route.Var(r, "name"), o)
	if err != nil {
		return err
	}
	out, err := forVersion(img, func(v string) bool { return route.AtLeast(ctx, v) })
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

// oldConfig are fields of Config that older versions always showed; those
// before 1.50 had the rest of a container's config, too.
var (
	oldConfig = map[string]any{
		"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil, "User": "", "Volumes": nil, "WorkingDir": "",
	}
	olderConfig = map[string]any{
		"AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "", "Image": "",
		"OpenStdin": false, "StdinOnce": false, "Tty": false,
	}
)

// forVersion gives the reply the fields it had in an older version.
func forVersion(img image.InspectResponse, atLeast func(string) bool) (any, error) {
	if atLeast("1.52") {
		return img, nil
	}
	if !atLeast("1.48") {
		img.Descriptor = nil
	}
	b, err := json.Marshal(img)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // sizes stay whole numbers
	if err := dec.Decode(&out); err != nil {
		return nil, err
	}
	fill := func(m, defaults map[string]any) {
		for k, v := range defaults {
			if _, ok := m[k]; !ok {
				m[k] = v
			}
		}
	}
	fill(out, map[string]any{"Parent": "", "Comment": "", "DockerVersion": "", "Author": ""})
	if config, ok := out["Config"].(map[string]any); ok {
		fill(config, oldConfig)
		if !atLeast("1.50") {
			fill(config, olderConfig)
		}
	}
	if !atLeast("1.45") {
		out["Container"], out["ContainerConfig"] = "", nil
	}
	if !atLeast("1.44") {
		out["VirtualSize"] = img.Size
		fill(out, map[string]any{"Created": time.Time{}.Format(time.RFC3339Nano)})
	}
	return out, nil
}

func (rt *Router) history(w http.ResponseWriter, r *http.Request) error {
	var want *ocispec.Platform
	if p := r.FormValue("platform"); p != "" && route.AtLeast(r.Context(), "1.48") {
		var err error
		if want, err = decodePlatform(p); err != nil {
			return err
		}
	}
	out, err := rt.b.History(r.Context(), route.Var(r, "name"), want)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) attestations(w http.ResponseWriter, r *http.Request) error {
	o := domain.AttestationOptions{Statement: route.Bool(r, "statement"), Types: r.Form["type"]}
	platforms := r.Form["platform"]
	if len(platforms) > 1 {
		return fault.New(errdefs.ErrInvalidArgument, "multiple platform parameters are not supported")
	}
	for _, p := range platforms {
		var err error
		if o.Platform, err = decodePlatform(p); err != nil {
			return err
		}
	}
	out, err := rt.b.Attestations(r.Context(), route.Var(r, "name"), o)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

// decodePlatform reads a platform in its JSON form.
func decodePlatform(s string) (*ocispec.Platform, error) {
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "failed to parse platform")
	}
	if p.OS == "" || p.Architecture == "" {
		if p.OS == "" && p.Architecture == "" && (p.Variant != "" || p.OSVersion != "" || len(p.OSFeatures) > 0) {
			return nil, fault.New(errdefs.ErrInvalidArgument, "optional platform fields provided, but OS and Architecture are missing")
		}
		return nil, fault.New(errdefs.ErrInvalidArgument, "both OS and Architecture must be provided")
	}
	return &p, nil
}

// decodePlatforms reads the repeated platform parameter of save and load.
func decodePlatforms(r *http.Request) ([]ocispec.Platform, error) {
	ctx := r.Context()
	vs := r.Form["platform"]
	if !route.AtLeast(ctx, "1.48") {
		return nil, nil
	}
	if len(vs) > 1 && !route.AtLeast(ctx, "1.52") {
		return nil, fault.New(errdefs.ErrInvalidArgument,
			"multiple platform parameters are not supported in this API version; use API version 1.52 or later")
	}
	var out []ocispec.Platform
	for _, v := range vs {
		p, err := decodePlatform(v)
		if err != nil {
			return nil, err
		}
		out = append(out, *p)
	}
	return out, nil
}
