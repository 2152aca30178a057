package cli

import (
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/socket"
	"github.com/spf13/cobra"
)

// pluginName is the name under which the program is a plugin of docker's CLI.
const pluginName = metadata.NamePrefix + rootName

// asPlugin tells whether the program was started as docker's plugin.
func asPlugin(args []string) bool {
	return len(args) > 0 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == pluginName
}

// tellPlugin answers what docker asks each plugin that it finds.
func tellPlugin(to io.Writer, v Version) error {
	return json.NewEncoder(to).Encode(metadata.Metadata{
		SchemaVersion: "0.1.0", Vendor: "Holdfast", Version: v.Version,
		ShortDescription: "Volumes that can be copied, kept, moved and trusted",
	})
}

// withoutName leaves out of docker's arguments the word that named the plugin:
// the first after the global flags, or after "help" or a request for completion.
func withoutName(args []string) []string {
	cmd := &cobra.Command{}
	dockercli.SetupRootCommand(cmd)
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.PersistentFlags())
	flags.SetInterspersed(false)
	flags.BoolP("version", "v", false, "")
	if err := flags.Parse(args); err != nil {
		return args // the command says what is wrong
	}
	at := len(args) - flags.NArg()
	if at < len(args) && slices.Contains([]string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}, args[at]) {
		at++
	}
	if at >= len(args) || args[at] != rootName {
		return args // somebody started the plugin by hand
	}
	return slices.Delete(slices.Clone(args), at, at+1)
}

// untilDocker returns a context that also ends when docker says so: it does not
// pass signals on, except on a terminal.
func untilDocker(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	socket.ConnectAndWait(func() { cancel(interrupted{signal: syscall.SIGINT}) })
	return ctx, func() { cancel(nil) }
}
