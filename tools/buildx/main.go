// Command docker-buildx is docker/buildx as a plugin of docker's and Holdfast's
// clients, and by itself. It knows the drivers that make sense with Holdfast: the
// engine's own BuildKit, one in a container, and a remote one.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/buildx/commands"
	_ "github.com/docker/buildx/driver/docker"
	_ "github.com/docker/buildx/driver/docker-container"
	_ "github.com/docker/buildx/driver/remote"
	"github.com/docker/buildx/util/cobrautil"
	"github.com/docker/buildx/version"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/plugin"
	"github.com/docker/cli/cli/command"
	"github.com/moby/buildkit/solver/errdefs"
)

func main() {
	dockerCli, err := command.NewDockerCli()
	if err == nil {
		err = run(dockerCli)
	}
	os.Exit(report(err))
}

func run(dockerCli *command.DockerCli) error {
	if plugin.RunningStandalone() {
		return commands.NewRootCmd(filepath.Base(os.Args[0]), false, dockerCli).Execute()
	}
	return plugin.RunPlugin(dockerCli, commands.NewRootCmd("buildx", true, dockerCli), metadata.Metadata{
		SchemaVersion: "0.1.0",
		Vendor:        "Holdfast",
		Version:       version.Version,
	})
}

// report prints an error, with the place in the Dockerfile if it has one, and
// returns the exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	var (
		status cli.StatusError
		code   cobrautil.ExitCodeError
	)
	switch {
	case errors.As(err, &code): // told already
		return int(code)
	case errors.As(err, &status):
		if status.Status != "" {
			fmt.Fprintln(os.Stderr, status.Status)
		}
		return max(1, status.StatusCode)
	}
	for _, s := range errdefs.Sources(err) {
		if err := s.Print(os.Stderr); err != nil {
			break
		}
	}
	fmt.Fprintln(os.Stderr, "ERROR:", err)
	return 1
}
