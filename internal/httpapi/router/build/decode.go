package build

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/registry"

	"holdfast.dev/holdfast/internal/base/fault"
	domain "holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// unserved are parameters of the first builder that BuildKit has no counterpart
// for: a build step has no limits of its own.
var unserved = []struct{ key, flag string }{
	{"memory", "--memory"},
	{"memswap", "--memory-swap"},
	{"cpushares", "--cpu-shares"},
	{"cpuperiod", "--cpu-period"},
	{"cpuquota", "--cpu-quota"},
	{"cpusetcpus", "--cpuset-cpus"},
	{"cpusetmems", "--cpuset-mems"},
	{"cgroupparent", "--cgroup-parent"},
	{"isolation", "--isolation"},
	{"squash", "--squash"},
	{"securityopt", "--security-opt"},
}

// uploadOf tells the build that a request only brings the context for, as docker
// 18.09 to 22 does for `docker build -` with DOCKER_BUILDKIT=1. Such a request has no session.
func uploadOf(r *http.Request) (id string, ok bool) {
	if r.FormValue("version") != string(build.BuilderBuildKit) {
		return "", false
	}
	return strings.CutPrefix(r.FormValue("buildid"), domain.UploadRequest+":")
}

func decode(r *http.Request) (in domain.Request, quiet bool, err error) {
	for _, u := range unserved {
		switch strings.ToLower(r.FormValue(u.key)) {
		case "", "0", "null", "[]", "false", "default":
		default:
			return in, false, fault.New(errdefs.ErrNotImplemented, "%s is not supported for builds", u.flag)
		}
	}
	in = domain.Request{
		ID:         r.FormValue("buildid"),
		Tags:       r.Form["t"],
		Remote:     r.FormValue("remote"),
		Dockerfile: r.FormValue("dockerfile"),
		Target:     r.FormValue("target"),
		Network:    r.FormValue("networkmode"),
		ExtraHosts: r.Form["extrahosts"],
		NoCache:    route.Bool(r, "nocache"),
		Pull:       route.Bool(r, "pull"),
	}
	if route.AtLeast(r.Context(), "1.38") {
		in.Platform = r.FormValue("platform")
	}
	if err := decodeSession(r, &in); err != nil {
		return in, false, err
	}
	if s := r.FormValue("shmsize"); s != "" {
		if in.ShmSize, err = strconv.ParseInt(s, 10, 64); err != nil {
			return in, false, fault.New(errdefs.ErrInvalidArgument, "invalid shmsize %q", s)
		}
	}
	for key, v := range map[string]any{"buildargs": &in.Args, "labels": &in.Labels, "cachefrom": &in.CacheFrom, "ulimits": &in.Ulimits} {
		s := r.FormValue(key)
		if s == "" {
			continue
		}
		if err := json.Unmarshal([]byte(s), v); err != nil {
			return in, false, fault.New(errdefs.ErrInvalidArgument, "error reading %s: %s", key, err)
		}
	}
	in.Auth = credentials(r)
	return in, route.Bool(r, "q"), nil
}

// decodeSession reads what belongs to the second builder version, whose context
// is in a session.
func decodeSession(r *http.Request, in *domain.Request) error {
	inSession := in.Remote == "client-session"
	if r.FormValue("version") != string(build.BuilderBuildKit) {
		if inSession {
			return fault.New(errdefs.ErrInvalidArgument, "a build context in a session needs version 2 of the builder")
		}
		return nil
	}
	in.Session = r.FormValue("session")
	if in.Session == "" {
		return fault.New(errdefs.ErrInvalidArgument, "version 2 of the builder needs a session")
	}
	if inSession {
		in.Remote = ""
	}
	if s := r.FormValue("outputs"); s != "" {
		if err := json.Unmarshal([]byte(s), &in.Outputs); err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "error reading outputs: %s", err)
		}
	}
	return nil
}

// registryConfig carries the credentials of all registries that the client has
// logged in to. What cannot be read counts as none, as in Docker.
const registryConfig = "X-Registry-Config"

func credentials(r *http.Request) map[string]registry.AuthConfig {
	out := map[string]registry.AuthConfig{}
	b, err := base64.URLEncoding.DecodeString(r.Header.Get(registryConfig))
	if err != nil || json.Unmarshal(b, &out) != nil {
		return nil
	}
	return out
}

func decodePrune(r *http.Request) (o domain.PruneOptions, err error) {
	o.All = route.Bool(r, "all")
	// keep-storage is the older name of reserved-space. Clients of newer versions
	// still send it, and a reserve that is not kept is somebody's cache gone.
	if err := number(r.Form, "keep-storage", &o.Reserved); err != nil {
		return o, err
	}
	keys := map[string]*int64{"reserved-space": &o.Reserved, "max-used-space": &o.MaxUsed, "min-free-space": &o.MinFree}
	if !route.AtLeast(r.Context(), "1.48") {
		keys = nil
	}
	for key, v := range keys {
		if err := number(r.Form, key, v); err != nil {
			return o, err
		}
	}
	filters, err := route.Filters(r)
	if err != nil {
		return o, err
	}
	for key, values := range filters {
		for _, v := range values {
			if err := o.AddFilter(key, v); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

func number(form url.Values, key string, v *int64) error {
	s := form.Get(key)
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s is in bytes and expects an integer, got %v", key, s)
	}
	*v = n
	return nil
}
