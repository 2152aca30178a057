package container

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// mergeConfig fills what the user left open from the image and returns a new
// config; neither input is changed.
func mergeConfig(user *container.Config, image dockerspec.DockerOCIImageConfig) (*container.Config, error) {
	out := *user
	out.User = first(user.User, image.User)
	out.WorkingDir = first(user.WorkingDir, image.WorkingDir)
	out.StopSignal = first(user.StopSignal, image.StopSignal)
	out.Env = mergeEnv(user.Env, image.Env)
	out.Labels = map[string]string{}
	maps.Copy(out.Labels, image.Labels)
	maps.Copy(out.Labels, user.Labels)
	out.Volumes = mergeSet(user.Volumes, image.Volumes)
	ports, err := mergePorts(user.ExposedPorts, image.ExposedPorts)
	if err != nil {
		return nil, err
	}
	out.ExposedPorts = ports
	out.Healthcheck = mergeHealth(user.Healthcheck, image.Healthcheck)
	out.Shell = user.Shell
	if len(out.Shell) == 0 {
		out.Shell = image.Shell
	}

	// The image's command belongs to the image's entrypoint: whoever replaces
	// the entrypoint starts with an empty command.
	if len(user.Entrypoint) == 0 {
		if len(user.Cmd) == 0 {
			out.Cmd = slices.Clone(image.Cmd)
		}
		if user.Entrypoint == nil {
			out.Entrypoint = slices.Clone(image.Entrypoint)
		}
	}
	if len(out.Entrypoint) == 1 && out.Entrypoint[0] == "" {
		out.Entrypoint = nil
	}
	if len(out.Entrypoint) == 0 && len(out.Cmd) == 0 {
		return nil, fault.New(errdefs.ErrInvalidArgument, "no command specified")
	}
	return &out, nil
}

// command splits a merged config into the program and its arguments.
func command(c *container.Config) (path string, args []string) {
	all := slices.Concat(c.Entrypoint, c.Cmd)
	return all[0], append([]string{}, all[1:]...)
}

func first(vals ...string) string {
	for _, v := range vals {
		if v != "" {
			return v
		}
	}
	return ""
}

// mergeEnv keeps the user's variables and adds the image's that have other names.
func mergeEnv(user, image []string) []string {
	out := slices.Clone(user)
	for _, kv := range image {
		key, _, _ := strings.Cut(kv, "=")
		taken := slices.ContainsFunc(user, func(u string) bool {
			k, _, _ := strings.Cut(u, "=")
			return k == key
		})
		if !taken {
			out = append(out, kv)
		}
	}
	return out
}

func mergeSet(a, b map[string]struct{}) map[string]struct{} {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := map[string]struct{}{}
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

func mergePorts(user network.PortSet, image map[string]struct{}) (network.PortSet, error) {
	out := network.PortSet{}
	maps.Copy(out, user)
	for spec := range image {
		r, err := network.ParsePortRange(spec)
		if err != nil {
			return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "invalid exposed port %q of the image", spec)
		}
		for p := range r.All() {
			out[p] = struct{}{}
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func mergeHealth(user *container.HealthConfig, image *dockerspec.HealthcheckConfig) *container.HealthConfig {
	if user == nil {
		return image
	}
	if image == nil {
		return user
	}
	out := *user
	if len(out.Test) == 0 {
		out.Test = image.Test
	}
	for _, p := range []struct {
		to   *int64
		from int64
	}{
		{(*int64)(&out.Interval), int64(image.Interval)},
		{(*int64)(&out.Timeout), int64(image.Timeout)},
		{(*int64)(&out.StartPeriod), int64(image.StartPeriod)},
		{(*int64)(&out.StartInterval), int64(image.StartInterval)},
	} {
		if *p.to == 0 {
			*p.to = p.from
		}
	}
	if out.Retries == 0 {
		out.Retries = image.Retries
	}
	return &out
}
