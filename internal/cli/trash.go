package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/client"
)

func newTrash(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trash COMMAND",
		Short: "Look at removed volumes and remove them for good",
		Long: `Volumes that were made with a name go to the trash when they are removed, with
their snapshots, and can be had back by "volume undelete" for some days (daemon.json:
volume-trash-days), unless the storage policy has a rule that gives them up earlier.`,
		Args: dockercli.NoArgs,
		RunE: command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newTrashList(dockerCli), newTrashRemove(dockerCli), newTrashEmpty(dockerCli))
	return cmd
}

func newTrashList(dockerCli command.Cli) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List removed volumes, oldest first",
		Args:    dockercli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				list, err := hf.Trash(cmd.Context())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
				if !quiet {
					fmt.Fprintln(w, "ID\tNAME\tDRIVER\tREMOVED\tGONE IN\tSNAPSHOTS")
				}
				now := time.Now()
				for _, t := range list {
					if quiet {
						fmt.Fprintln(w, t.ID)
						continue
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s ago\t%s\t%d\n", t.ID, t.Name, t.Driver,
						units.HumanDuration(now.Sub(t.Removed)), units.HumanDuration(max(t.Expires.Sub(now), 0)), t.Snapshots)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show IDs")
	return cmd
}

func newTrashRemove(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm ID|NAME [ID|NAME...]",
		Aliases: []string{"remove"},
		Short:   "Remove volumes for good",
		Args:    dockercli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				var errs []error
				for _, a := range args {
					err := hf.Purge(cmd.Context(), a)
					if err == nil {
						fmt.Fprintln(dockerCli.Out(), a)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func newTrashEmpty(dockerCli command.Cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "empty",
		Short: "Remove all removed volumes for good",
		Args:  dockercli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				if !force {
					ok, err := prompt.NewPrompt(dockerCli.In(), dockerCli.Out()).Confirm("The volumes in the trash cannot be had back then. Go on?", false)
					if err != nil {
						return err
					}
					if !ok {
						return errors.New("nothing was removed")
					}
				}
				gone, err := hf.EmptyTrash(cmd.Context())
				for _, t := range gone {
					fmt.Fprintln(dockerCli.Out(), t.Name)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	return cmd
}

func newUndelete(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "undelete ID|NAME [NEW]",
		Short: "Take a removed volume out of the trash, under its name or another",
		Args:  dockercli.RequiresRangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			as := ""
			if len(args) == 2 {
				as = args[1]
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				name, err := hf.Undelete(cmd.Context(), args[0], as)
				if err == nil {
					fmt.Fprintln(dockerCli.Out(), name)
				}
				return err
			})
		},
	}
}
