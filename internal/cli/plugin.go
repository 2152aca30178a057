package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/manager"
	"github.com/docker/cli/cli-plugins/socket"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func wantsCompletion(args []string) bool {
	return slices.Contains(args, cobra.ShellCompRequestCmd) || slices.Contains(args, cobra.ShellCompNoDescRequestCmd)
}

// addPlugins adds stubs of the plugins found in docker's folders, for help and
// completion. It runs every plugin, so not before each command. What we are as a
// plugin of docker's is here already.
func (r *root) addPlugins() error {
	err := manager.AddPluginCommandStubs(r.cli, r.cmd)
	for _, c := range r.cmd.Commands() {
		if c.Name() == rootName && manager.IsPluginCommand(c) {
			r.cmd.RemoveCommand(c)
		}
	}
	return err
}

// runPlugin runs the plugin that the arguments name, unless they name a command
// of ours or nothing that exists.
func (r *root) runPlugin(ctx context.Context, args, env []string) (ran bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	if found, _, err := r.cmd.Find(args); err == nil && !manager.IsPluginCommand(found) {
		return false, nil
	}
	cmd, err := manager.PluginRunCommand(r.cli, args[0], r.cmd)
	if errdefs.IsNotFound(err) {
		return false, nil // cobra says that the command is unknown
	}
	if err != nil {
		return true, err
	}
	cmd.Env = append(cmd.Env, env...)
	if r.chosen != "" {
		cmd.Env = append(cmd.Env, client.EnvOverrideHost+"="+r.chosen)
	}
	return true, supervise(ctx, cmd)
}

// supervise runs a plugin and tells it by its socket when the user wants to stop:
// the plugin's connection is closed. On a terminal it gets the signal itself.
func supervise(ctx context.Context, cmd *exec.Cmd) error {
	if srv, err := socket.NewPluginServer(nil); err == nil {
		cmd.Env = append(cmd.Env, socket.EnvKey+"="+srv.Addr().String())
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer func() {
			stop()
			_ = srv.Close() // removes the socket; a second close does nothing
		}()
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return dockercli.StatusError{StatusCode: exit.ExitCode()}
	}
	return err
}

// setHelp lets help know plugins, and leave out what the engine does not support.
func (r *root) setHelp(help *cobra.Command) {
	inner := r.cmd.HelpFunc()
	r.cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if err := r.addPlugins(); err != nil {
			cmd.Println(err)
			return
		}
		if manager.IsPluginCommand(cmd) {
			if err := r.pluginHelp(cmd.Name()); err != nil {
				cmd.Println(err)
			}
			return
		}
		if err := r.supported(cmd); err != nil {
			cmd.Println(err)
			return
		}
		r.hideUnsupported(cmd)
		inner(cmd, args)
	})
	own := help.RunE
	help.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if _, _, err := r.cmd.Find(args); err != nil {
				if err := r.pluginHelp(args[0]); !errdefs.IsNotFound(err) {
					return err
				}
				return fmt.Errorf("unknown help topic: %v", strings.Join(args, " "))
			}
		}
		return own(cmd, args)
	}
}

func (r *root) pluginHelp(name string) error {
	cmd, err := manager.PluginRunCommand(r.cli, name, r.cmd)
	if err != nil {
		return err
	}
	return cmd.Run()
}
