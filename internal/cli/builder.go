package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/docker/cli/cli-plugins/manager"
)

const (
	buildPlugin = "buildx"
	envBuildKit = "DOCKER_BUILDKIT" // false: the classic endpoint
	envBuilder  = "BUILDX_BUILDER"
)

// pluginsDir holds plugins, beside the program or in libexec of its prefix.
const pluginsDir = "cli-plugins"

// ownPlugins lets the plugins that come with the program be found. Commands that write the configuration
// file do without, since it would be written, too.
func (r *root) ownPlugins(args []string) {
	if len(args) == 0 || slices.Contains([]string{"login", "logout", "context"}, args[0]) {
		return
	}
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return // the plugins of docker's folders are found all the same
	}
	dir := filepath.Dir(self)
	c := r.cli.ConfigFile()
	c.CLIPluginsExtraDirs = append(c.CLIPluginsExtraDirs,
		filepath.Join(dir, pluginsDir), filepath.Join(dir, "..", "libexec", rootName, pluginsDir))
}

// forBuilder turns a command that builds into buildx's, as docker does, if
// buildx is there and wanted. env is for the plugin.
func (r *root) forBuilder(args []string) (out, env []string, err error) {
	rest, ok := builds(args)
	if !ok {
		return args, nil, nil
	}
	if v := os.Getenv(envBuildKit); v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return nil, nil, fmt.Errorf("%s environment variable expects boolean value: %w", envBuildKit, err)
		}
		if !on {
			return args, nil, nil
		}
	}
	p, err := manager.GetPlugin(buildPlugin, r.cli, r.cmd)
	if err != nil || p.Err != nil {
		return args, nil, nil //nolint:nilerr // without it the classic endpoint does
	}
	// The image is to be in the engine's list, whatever builder is the current one.
	if os.Getenv(envBuilder) == "" {
		env = []string{envBuilder + "=" + r.cli.CurrentContext()}
	}
	out = append([]string{buildPlugin}, rest...)
	// The plugin is started with the program's own arguments: global flags, command.
	global := os.Args[:max(0, len(os.Args)-len(args))]
	os.Args = append(slices.Clone(global), out...)
	return out, env, nil
}

// builds tells commands that buildx serves, and what they are there.
func builds(args []string) ([]string, bool) {
	switch {
	case len(args) == 0:
		return nil, false
	case args[0] == "build", args[0] == "bake":
		return args, true
	case args[0] == "builder" && !planned(args):
		return args[1:], true
	case len(args) > 1 && args[0] == "image" && args[1] == "build":
		return args[1:], true
	}
	return nil, false
}
