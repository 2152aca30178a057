package cli

import (
	"os"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/moby/moby/client"
)

const (
	// DefaultHost is where holdfastd listens.
	DefaultHost = "unix:///run/holdfast.sock"
	// EnvHost names an engine for holdfast alone; DOCKER_HOST counts too.
	EnvHost = "HOLDFAST_HOST"
)

// choice is what the user said about the engine to talk to.
type choice struct {
	hosts   []string // -H
	context string   // --context
	env     func(string) string
	current string // the context chosen by `context use`
	plugin  bool   // this is docker's plugin
}

// host returns the engine to talk to in place of Docker's default, or "" where
// the user chose one in a way docker/cli understands by itself. The first that
// is given wins: -H, --context, HOLDFAST_HOST, DOCKER_HOST, DOCKER_CONTEXT, the
// current context. The context named default is our socket; as docker's plugin it
// is docker's, so that both commands talk to the same engine.
func (c choice) host() string {
	own := c.env(EnvHost)
	if own == "" && !c.plugin && c.env(client.EnvOverrideHost) == "" {
		own = DefaultHost
	}
	switch {
	case len(c.hosts) > 0:
		return ""
	case c.context == command.DefaultContextName:
		return own
	case c.context != "":
		return ""
	case c.env(EnvHost) != "":
		return own
	case c.env(client.EnvOverrideHost) != "":
		return ""
	}
	name := c.env(command.EnvOverrideContext)
	if name == "" {
		name = c.current
	}
	if name == "" || name == command.DefaultContextName {
		return own
	}
	return ""
}

// endpoint sets the engine to talk to, before the client is initialized.
func (r *root) endpoint() {
	if r.opts.ConfigDir != "" {
		config.SetDir(r.opts.ConfigDir)
	}
	host := choice{
		hosts:   r.opts.Hosts,
		context: r.opts.Context,
		env:     os.Getenv,
		plugin:  r.plugin,
		current: config.LoadDefaultConfigFile(r.cli.Err()).CurrentContext,
	}.host()
	if host == "" {
		return
	}
	r.opts.Hosts = []string{host}
	r.opts.Context = "" // was empty or default
	r.chosen = host
}
