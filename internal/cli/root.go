package cli

import (
	"fmt"
	"os"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/docker/cli/cli/context/store"
	cliflags "github.com/docker/cli/cli/flags"
	composecmd "github.com/docker/compose/v5/cmd/compose"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/spf13/cobra"
)

const rootName = "holdfast"

// root is the command tree and what is known before a command of it runs.
type root struct {
	cli    *command.DockerCli
	cmd    *cobra.Command
	top    *dockercli.TopLevelCommand
	opts   *cliflags.ClientOptions
	chosen string // the engine chosen in place of Docker's default, if any
	plugin bool   // this is docker's plugin
}

func newRoot(dockerCli *command.DockerCli, v Version) *root {
	cmd := &cobra.Command{
		Use:                   rootName + " [OPTIONS] COMMAND [ARG...]",
		Short:                 "A container engine for containers that hold data",
		Version:               fmt.Sprintf("%s, build %s", v.Version, v.Commit),
		SilenceUsage:          true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd:    true,
			DisableDescriptions: os.Getenv("DOCKER_CLI_DISABLE_COMPLETION_DESCRIPTION") != "",
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.ShowHelp(dockerCli.Err())(cmd, args)
			}
			return fmt.Errorf("%[1]s: unknown command: %[1]s %[2]s\n\nRun '%[1]s --help' for more information", rootName, args[0])
		},
	}
	cmd.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	cmd.SetIn(dockerCli.In())
	cmd.SetOut(dockerCli.Out())
	cmd.SetErr(dockerCli.Err())

	opts, help := dockercli.SetupRootCommand(cmd)
	delete(cmd.Annotations, "additionalHelp") // Docker's guides
	cmd.SetVersionTemplate("Holdfast version {{.Version}}\n")
	cmd.Flags().BoolP("version", "v", false, "Print version information and quit")

	if v.plugin {
		cmd.Annotations[cobra.CommandDisplayNameAnnotation] = "docker " + rootName
	}

	r := &root{cli: dockerCli, cmd: cmd, opts: opts, plugin: v.plugin}
	r.completeGlobals()
	commands.AddCommands(cmd, dockerCli)
	composeCmd := newCompose(dockerCli)
	extendCompose(composeCmd, dockerCli)
	cmd.AddCommand(composeCmd)
	r.addOwn()
	r.showImports()
	r.explainFlags()
	r.guard()
	r.setHelp(help)
	// The flags are those of the top: subcommands have their own.
	r.top = dockercli.NewTopLevelCommand(cmd, dockerCli, opts, cmd.Flags())
	return r
}

// newCompose is docker/compose as a command of ours.
func newCompose(dockerCli command.Cli) *cobra.Command {
	ask := prompt.NewPrompt(dockerCli.In(), dockerCli.Out())
	cmd := composecmd.RootCommand(dockerCli, &composecmd.BackendOptions{
		Options: []compose.Option{compose.WithPrompt(ask.Confirm)},
	})
	// Compose's usage errors end with 1, without the usage.
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return dockercli.StatusError{StatusCode: 1, Status: err.Error()}
	})
	return cmd
}

// addOwn adds what Holdfast has beyond docker's commands.
func (r *root) addOwn() {
	r.cmd.AddCommand(newStorage(r.cli), newDashboard(r.cli))
	for _, c := range r.cmd.Commands() {
		if _, ok := pruneGroups[c.Name()]; ok {
			extendPrune(sub(c, "prune"), r.cli, c.Name())
		}
		switch c.Name() {
		case "image":
			c.AddCommand(newOutdated(r.cli), newAnalyze(r.cli))
		case "volume":
			addVolumeVerbs(c, r.cli)
			extendVolumeList(sub(c, "ls"), r.cli)
		case "stack":
			extendStack(c, r.cli)
		case "system":
			extendDF(sub(c, "df"), r.cli)
		}
	}
	r.cmd.AddCommand(newPool(r.cli), newRegistry(r.cli), newStateful(r.cli))
}

func (r *root) completeGlobals() {
	levels := []string{"debug", "info", "warn", "error", "fatal", "panic"}
	for flag, complete := range map[string]cobra.CompletionFunc{
		"log-level": cobra.FixedCompletions(levels, cobra.ShellCompDirectiveNoFileComp),
		"context": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			names, err := store.Names(r.cli.ContextStore())
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	} {
		if err := r.cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // docker/cli no longer has the flag
		}
	}
}
