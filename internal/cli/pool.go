package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

func newPool(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool COMMAND",
		Short: "Manage pools, the file systems of volumes with the driver btrfs",
		Args:  dockercli.NoArgs,
		RunE:  command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newPoolCreate(dockerCli), newPoolList(dockerCli), newPoolInspect(dockerCli),
		newPoolGrow(dockerCli), newPoolCheck(dockerCli), newPoolRemove(dockerCli))
	return cmd
}

func newPoolCreate(dockerCli command.Cli) *cobra.Command {
	var (
		r    api.PoolCreate
		size string
	)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NAME",
		Short: "Make a pool in a file, on a block device or in a directory of a btrfs",
		Long: `Make a pool in a file (--size), on a block device (--device), or in an empty
directory of a btrfs that is there (--directory). Volumes without the option "pool"
are in the pool "default":

    holdfast pool create --size 20g default
    docker volume create -d btrfs -o size=5g data

In a pool, snapshots and clones take milliseconds whatever a volume holds. A
database that writes much is slower on btrfs than on ext4 or XFS, about by half.`,
		Args: dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			if size != "" {
				n, err := units.RAMInBytes(size)
				if err != nil {
					return err
				}
				r.Bytes = n
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				p, err := hf.CreatePool(cmd.Context(), r)
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), p.Name)
				if !p.Quota {
					fmt.Fprintln(dockerCli.Err(), "Without simple quotas (Linux 6.7): volumes in it have no limits, and their sizes take a walk.")
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&size, "size", "", "In a file of that size")
	flags.BoolVar(&r.Sparse, "sparse", false, "Have the file take its space when it is needed; should the disk be full then, the pool fails")
	flags.StringVar(&r.Device, "device", "", "On a block device, which must be empty")
	flags.StringVar(&r.Directory, "directory", "", "In an empty directory on a btrfs")
	cmd.MarkFlagsOneRequired("size", "device", "directory")
	cmd.MarkFlagsMutuallyExclusive("size", "device", "directory")
	return cmd
}

func newPoolList(dockerCli command.Cli) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List pools",
		Args:    dockercli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				list, err := hf.Pools(cmd.Context())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
				if !quiet {
					fmt.Fprintln(w, "NAME\tKIND\tSIZE\tFREE\tVOLUMES\tQUOTAS\tSTATE")
				}
				for _, p := range list {
					state := "ready"
					if p.Error != "" {
						state = p.Error
					}
					if quiet {
						fmt.Fprintln(w, p.Name)
						continue
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%t\t%s\n", p.Name, p.Kind, units.HumanSize(float64(p.Bytes)), units.HumanSize(float64(p.Free)), len(p.Volumes), p.Quota, state)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show names")
	return cmd
}

func newPoolInspect(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show a pool, as JSON",
		Args:  dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				p, err := hf.Pool(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				enc := json.NewEncoder(dockerCli.Out())
				enc.SetIndent("", "    ")
				return enc.Encode(p)
			})
		},
	}
}

func newPoolGrow(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "grow NAME [SIZE]",
		Short: "Make a pool in a file larger, or have one on a device take all of it",
		Args:  dockercli.RequiresRangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes int64
			if len(args) == 2 {
				n, err := units.RAMInBytes(args[1])
				if err != nil {
					return err
				}
				bytes = n
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				p, err := hf.GrowPool(cmd.Context(), args[0], bytes)
				if err != nil {
					return err
				}
				fmt.Fprintf(dockerCli.Out(), "%s: %s, %s free\n", p.Name, units.HumanSize(float64(p.Bytes)), units.HumanSize(float64(p.Free)))
				return nil
			})
		},
	}
}

func newPoolCheck(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Read all of a pool and compare it with its checksums",
		Long:  "Read all of a pool and compare it with its checksums. The exit code is 1 if there is data that cannot be read any more.",
		Args:  dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				c, err := hf.CheckPool(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(dockerCli.Out(), "%s read: %d errors, %d corrected, %d cannot be\n", units.HumanSize(float64(c.Bytes)), c.Errors, c.Corrected, c.Uncorrectable)
				if c.Uncorrectable > 0 {
					return dockercli.StatusError{StatusCode: 1}
				}
				return nil
			})
		},
	}
}

func newPoolRemove(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"remove"},
		Short:   "Take an empty pool away",
		Args:    dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				if err := hf.RemovePool(cmd.Context(), args[0]); err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), args[0])
				return nil
			})
		},
	}
}
