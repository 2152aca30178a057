package image

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// changeable are the instructions that import and commit accept.
var changeable = map[string]bool{
	"cmd": true, "entrypoint": true, "env": true, "expose": true, "healthcheck": true, "label": true,
	"maintainer": true, "onbuild": true, "shell": true, "stopsignal": true, "user": true, "volume": true, "workdir": true,
}

// ApplyChanges changes a config as the Dockerfile instructions say. On an
// error c may be half changed.
func ApplyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	if len(changes) == 0 {
		return nil
	}
	parsed, err := parser.Parse(strings.NewReader(strings.Join(changes, "\n")))
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	ch := changer{c: c, lex: shell.NewLex(parsed.EscapeToken)}
	for _, n := range parsed.AST.Children {
		if !changeable[strings.ToLower(n.Value)] {
			return fault.New(errdefs.ErrInvalidArgument, "%s is not a valid change command", n.Value)
		}
		cmd, err := instructions.ParseCommand(n)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
		if err := ch.apply(cmd); err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "%s", err)
		}
	}
	return nil
}

type changer struct {
	c      *dockerspec.DockerOCIImageConfig
	lex    *shell.Lex
	cmdSet bool // CMD came before ENTRYPOINT: it is kept
}

func (ch *changer) apply(cmd instructions.Command) error {
	env := shell.EnvsFromSlice(ch.c.Env)
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := ex.Expand(func(word string) (string, error) {
			out, _, err := ch.lex.ProcessWord(word, env)
			return out, err
		}); err != nil {
			return err
		}
	}
	c := ch.c
	switch cmd := cmd.(type) {
	case *instructions.CmdCommand:
		c.Cmd, c.ArgsEscaped = ch.line(cmd.ShellDependantCmdLine), false //nolint:staticcheck // cleared, never set
		ch.cmdSet = len(cmd.CmdLine) != 0
	case *instructions.EntrypointCommand:
		c.Entrypoint = ch.line(cmd.ShellDependantCmdLine)
		if !ch.cmdSet {
			c.Cmd = nil
		}
	case *instructions.EnvCommand:
		for _, kv := range cmd.Env {
			c.Env = setEnv(c.Env, kv.Key, kv.Value)
		}
	case *instructions.ExposeCommand:
		return ch.expose(cmd.Ports, env)
	case *instructions.HealthCheckCommand:
		c.Healthcheck = cmd.Health
	case *instructions.LabelCommand:
		labels := maps.Clone(c.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		for _, kv := range cmd.Labels {
			labels[kv.Key] = kv.Value
		}
		c.Labels = labels
	case *instructions.OnbuildCommand:
		c.OnBuild = append(slices.Clone(c.OnBuild), cmd.Expression)
	case *instructions.ShellCommand:
		c.Shell = cmd.Shell
	case *instructions.StopSignalCommand:
		c.StopSignal = cmd.Signal
	case *instructions.UserCommand:
		c.User = cmd.User
	case *instructions.VolumeCommand:
		c.Volumes = withKeys(c.Volumes, cmd.Volumes)
	case *instructions.WorkdirCommand:
		ch.workdir(cmd.Path)
	case *instructions.MaintainerCommand:
		// Accepted as Docker does; the author is the commit's own field.
	}
	return nil
}

// line returns the command of an exec form, or of a shell form with its shell.
func (ch *changer) line(l instructions.ShellDependantCmdLine) []string {
	if !l.PrependShell || len(l.CmdLine) == 0 {
		return l.CmdLine
	}
	sh := ch.c.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), l.CmdLine...)
}

func (ch *changer) expose(ports []string, env shell.EnvGetter) error {
	var all []string
	for _, p := range ports {
		words, err := ch.lex.ProcessWords(p, env)
		if err != nil {
			return err
		}
		all = append(all, words...)
	}
	var keys []string
	for _, p := range all {
		// The host part of "8080:80" is allowed and means nothing, as in Docker.
		if i := strings.LastIndex(p, ":"); i >= 0 {
			p = p[i+1:]
		}
		r, err := network.ParsePortRange(p)
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "invalid containerPort: %s", p)
		}
		switch r.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return fault.New(errdefs.ErrInvalidArgument, "invalid proto: %s", r.Proto())
		}
		for port := range r.All() {
			keys = append(keys, port.String())
		}
	}
	ch.c.ExposedPorts = withKeys(ch.c.ExposedPorts, keys)
	return nil
}

func (ch *changer) workdir(dir string) {
	if !path.IsAbs(dir) {
		dir = path.Join("/", ch.c.WorkingDir, dir)
	}
	ch.c.WorkingDir = path.Clean(dir)
}

func withKeys(set map[string]struct{}, keys []string) map[string]struct{} {
	out := maps.Clone(set)
	if out == nil {
		out = map[string]struct{}{}
	}
	for _, k := range keys {
		out[k] = struct{}{}
	}
	return out
}

// setEnv replaces or appends a variable.
func setEnv(env []string, key, value string) []string {
	env = slices.Clone(env)
	for i, kv := range env {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// ConfigOf takes from a container's config what belongs into an image.
func ConfigOf(c *container.Config) dockerspec.DockerOCIImageConfig {
	var out dockerspec.DockerOCIImageConfig
	if c == nil {
		return out
	}
	out.User = c.User
	out.Env = slices.Clone(c.Env)
	out.Entrypoint = slices.Clone(c.Entrypoint)
	out.Cmd = slices.Clone(c.Cmd)
	out.WorkingDir = c.WorkingDir
	out.Labels = maps.Clone(c.Labels)
	out.StopSignal = c.StopSignal
	out.OnBuild = slices.Clone(c.OnBuild)
	out.Shell = slices.Clone(c.Shell)
	if c.Healthcheck != nil {
		h := dockerspec.HealthcheckConfig(*c.Healthcheck)
		out.Healthcheck = &h
	}
	if len(c.Volumes) > 0 {
		out.Volumes = maps.Clone(c.Volumes)
	}
	for p := range c.ExposedPorts {
		out.ExposedPorts = withKeys(out.ExposedPorts, []string{p.String()})
	}
	return out
}
