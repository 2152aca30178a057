package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// addVolumeVerbs adds to docker's "volume" what is ours.
func addVolumeVerbs(cmd *cobra.Command, dockerCli command.Cli) {
	cmd.AddCommand(
		newCheck(dockerCli), newSnapshot(dockerCli), newClone(dockerCli), newRename(dockerCli), newResize(dockerCli),
		newProtect(dockerCli, true), newProtect(dockerCli, false), newVolumeExport(dockerCli), newVolumeImport(dockerCli),
		newMove(dockerCli), newVolumeCopy(dockerCli), newVolumeTop(dockerCli), newTrash(dockerCli), newUndelete(dockerCli),
		newBackupRepo(dockerCli), newBackup(dockerCli), newBackups(dockerCli), newRestore(dockerCli), newVerify(dockerCli),
	)
}

func newClone(dockerCli command.Cli) *cobra.Command {
	var (
		labels = opts.NewListOpts(opts.ValidateLabel)
		live   bool
	)
	cmd := &cobra.Command{
		Use:   "clone [OPTIONS] VOLUME[@SNAPSHOT] NEW",
		Short: "Make a volume with the state of another, or of a snapshot",
		Long: `Make a volume with the state of another, or of a snapshot. It has the driver, the
options and, without --label, the labels of the first. See "volume snapshot create"
for volumes that containers are writing to.`,
		Args:              dockercli.ExactArgs(2),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, _ := strings.Cut(args[0], "@")
			r := api.VolumeClone{To: args[1], Snapshot: snapshot, Live: live}
			if cmd.Flags().Changed("label") {
				r.Labels = opts.ConvertKVStringsToMap(labels.GetSlice())
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				made, err := hf.CloneVolume(cmd.Context(), volume, r)
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), made.Name)
				fmt.Fprintln(dockerCli.Err(), madeLine(made))
				return nil
			})
		},
	}
	cmd.Flags().Var(&labels, "label", "Set metadata of the new volume")
	cmd.Flags().BoolVar(&live, "live", false, "Copy the volume although containers write to it: no one moment of it")
	return cmd
}

func newRename(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:               "rename VOLUME NEW",
		Short:             "Give a volume another name",
		Long:              `Give a volume, with its snapshots, another name. No container may refer to it.`,
		Args:              dockercli.ExactArgs(2),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				if err := hf.RenameVolume(cmd.Context(), args[0], args[1]); err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), args[1])
				return nil
			})
		},
	}
}

func newMove(dockerCli command.Cli) *cobra.Command {
	var (
		r       api.VolumeMove
		options = opts.NewMapOpts(nil, nil)
	)
	cmd := &cobra.Command{
		Use:     "mv [OPTIONS] VOLUME",
		Aliases: []string{"move"},
		Short:   "Move a volume to another pool or driver",
		Long: `Move a volume, with its snapshots, to another pool or driver. No container may run
with it; those that are stopped find it where it is then. Until all of it is there, it
is where it was, whatever happens.`,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Options = options.GetAll()
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				made, err := hf.MoveVolume(cmd.Context(), args[0], r)
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), made.Name)
				fmt.Fprintln(dockerCli.Err(), madeLine(made))
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Pool, "pool", "", "Pool of the driver btrfs that it goes to")
	flags.StringVarP(&r.Driver, "driver", "d", "", "Driver that it goes to")
	flags.VarP(options, "opt", "o", "Set driver specific options")
	cmd.MarkFlagsOneRequired("pool", "driver")
	return cmd
}

func newResize(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:               "resize VOLUME SIZE",
		Short:             `Change what a volume may hold ("20g"; 0: no limit)`,
		Args:              dockercli.ExactArgs(2),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := units.RAMInBytes(args[1])
			if err != nil {
				return err
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				return hf.ResizeVolume(cmd.Context(), args[0], bytes)
			})
		},
	}
}

func newProtect(dockerCli command.Cli, on bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "protect VOLUME[@SNAPSHOT] [VOLUME[@SNAPSHOT]...]",
		Short:             "Forbid that volumes or snapshots are removed",
		Args:              dockercli.RequiresMinArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				var errs []error
				for _, a := range args {
					volume, snapshot, _ := strings.Cut(a, "@")
					err := hf.ProtectVolume(cmd.Context(), volume, api.VolumeProtect{Snapshot: snapshot, On: on})
					if err == nil {
						fmt.Fprintln(dockerCli.Out(), a)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
	if !on {
		cmd.Use = "un" + cmd.Use
		cmd.Short = "Allow again that volumes or snapshots are removed"
	}
	return cmd
}

type exportOptions struct {
	target   string
	output   string
	compress string
	registry string
	live     bool
}

func newVolumeExport(dockerCli command.Cli) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] VOLUME[@SNAPSHOT]",
		Short: "Write a volume, or a snapshot, as a tar to a file, to STDOUT or to a registry",
		Long: `Write a volume, or a snapshot, as a tar to a file or to STDOUT, or with --registry
to an image registry, compressed, as an OCI artifact. Credentials are those of
"login". Export a snapshot where containers are writing to the volume. A file ending in
.zst is compressed.`,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.target = args[0]
			if o.registry != "" {
				if o.output != "" || cmd.Flags().Changed("compress") {
					return errors.New("--registry takes neither --output nor --compress: it is always compressed by zstd")
				}
				return runVolumePush(cmd.Context(), dockerCli, o)
			}
			if !cmd.Flags().Changed("compress") && strings.HasSuffix(o.output, ".zst") {
				o.compress = "zstd"
			}
			return runExport(cmd.Context(), dockerCli, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.output, "output", "o", "", "Write to a file, which is there once it is whole")
	flags.StringVar(&o.compress, "compress", "none", `Compress: "zstd", "none"`)
	flags.StringVar(&o.registry, "registry", "", "Send it to an image registry, as this name")
	flags.BoolVar(&o.live, "live", false, "Read the volume although containers write to it: no one moment of it")
	return cmd
}

func runExport(ctx context.Context, dockerCli command.Cli, o exportOptions) (err error) {
	volume, snapshot, _ := strings.Cut(o.target, "@")
	eo := client.ExportOptions{Snapshot: snapshot, Live: o.live, Compress: o.compress}
	return withHoldfast(dockerCli, func(hf *client.Client) error {
		if o.output == "" || o.output == "-" {
			if dockerCli.Out().IsTerminal() {
				return errors.New("cowardly refusing to write a tar to a terminal: use -o or redirect")
			}
			return hf.ExportVolume(ctx, volume, eo, dockerCli.Out())
		}
		f, err := os.CreateTemp(filepath.Dir(o.output), "."+filepath.Base(o.output)+".*")
		if err != nil {
			return err
		}
		err = hf.ExportVolume(ctx, volume, eo, f)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), o.output)
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		return nil
	})
}

func newVolumeImport(dockerCli command.Cli) *cobra.Command {
	var (
		labels  = opts.NewListOpts(opts.ValidateLabel)
		options = opts.NewMapOpts(nil, nil)
		driver  string
		ref     string
	)
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] VOLUME [FILE|-]",
		Short: "Make a volume of a tar from a file, from STDIN or from a registry",
		Long: `Make a new volume of a tar, which may be compressed by zstd or gzip, from a file or
from STDIN, or with --registry of what "volume export --registry" sent. There is no such volume until all of it is there.`,
		Args: dockercli.RequiresRangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			made := client.ImportOptions{Driver: driver, Labels: opts.ConvertKVStringsToMap(labels.GetSlice()), Options: options.GetAll()}
			if ref != "" {
				if len(args) > 1 {
					return errors.New("--registry takes no file")
				}
				return runVolumePull(cmd.Context(), dockerCli, args[0], ref, made)
			}
			var from io.Reader = dockerCli.In()
			switch {
			case len(args) == 2 && args[1] != "-":
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				from = f
			case dockerCli.In().IsTerminal():
				return errors.New("name a file, or redirect a tar to STDIN")
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				got, err := hf.ImportVolume(cmd.Context(), args[0], made, from)
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), got.Name)
				fmt.Fprintf(dockerCli.Err(), "%d files, %s\n", got.Files, units.HumanSize(float64(got.Bytes)))
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ref, "registry", "", "Get it from an image registry, by this name")
	flags.StringVarP(&driver, "driver", "d", "", "Volume driver of the new volume")
	flags.Var(&labels, "label", "Set metadata of the new volume")
	flags.VarP(options, "opt", "o", "Set driver specific options")
	return cmd
}
