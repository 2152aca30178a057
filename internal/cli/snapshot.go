package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// withHoldfast runs do with a client of the extensions.
func withHoldfast(dockerCli command.Cli, do func(*client.Client) error) error {
	hf := client.New(dockerCli.Client().Dialer())
	defer hf.Close()
	return do(hf)
}

// splitSnapshot reads VOLUME@SNAPSHOT.
func splitSnapshot(arg string) (volume, snapshot string, err error) {
	volume, snapshot, ok := strings.Cut(arg, "@")
	if !ok || volume == "" || snapshot == "" {
		return "", "", fmt.Errorf("invalid snapshot %q: want VOLUME@SNAPSHOT", arg)
	}
	return volume, snapshot, nil
}

func newSnapshot(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot COMMAND",
		Short: "Keep states of volumes and go back to them",
		Args:  dockercli.NoArgs,
		RunE:  command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(
		newSnapshotCreate(dockerCli), newSnapshotList(dockerCli), newSnapshotInspect(dockerCli),
		newSnapshotRemove(dockerCli), newRollback(dockerCli), newSnapshotPrune(dockerCli),
	)
	return cmd
}

func newSnapshotCreate(dockerCli command.Cli) *cobra.Command {
	var (
		labels = opts.NewListOpts(opts.ValidateLabel)
		live   bool
		group  api.SnapshotGroup
	)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] VOLUME[@SNAPSHOT] | --of-container CONTAINER [SNAPSHOT] | --of-project PROJECT [SNAPSHOT]",
		Short: "Keep the present state of a volume, or of several as of one moment",
		Long: `Keep the present state of a volume under the name SNAPSHOT, or under the time.
It can be mounted read-only as VOLUME@SNAPSHOT, cloned, and rolled back to.

Where the volume's driver cannot copy it as of one moment (volume driver "local"),
a volume that running containers use is refused; --live copies it all the same,
and the snapshot is marked as such.

With --quiesce the containers that write to it hold still meanwhile. A database that is
known (postgres, mariadb, mysql) is told, and so is one whose labels
holdfast.quiesce.pre and .post have commands; the snapshot is then consistent for the
application. Where the driver has no one moment, containers are paused as well. If an
application cannot be told, there is no snapshot; with --quiesce=try it is what a crash
would leave. --quiesce=freeze only pauses.

--of-container and --of-project keep all volumes of a container, or of a compose
project, as of one moment, under the same name: all of them, or none.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if group.Container != "" || group.Project != "" {
				return dockercli.RequiresMaxArgs(1)(cmd, args)
			}
			return dockercli.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			if group.Container != "" || group.Project != "" {
				if live {
					return errors.New("several volumes are kept as of one moment: --live is of none")
				}
				if len(args) == 1 {
					group.Name = strings.TrimPrefix(args[0], "@")
				}
				group.Labels = opts.ConvertKVStringsToMap(labels.GetSlice())
				return runSnapshotGroup(cmd.Context(), dockerCli, group)
			}
			volume, name, _ := strings.Cut(args[0], "@")
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				made, err := hf.CreateSnapshot(cmd.Context(), volume, api.SnapshotCreate{Name: name, Labels: opts.ConvertKVStringsToMap(labels.GetSlice()), Live: live, Quiesce: group.Quiesce})
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), volume+"@"+made.Name)
				fmt.Fprintln(dockerCli.Err(), madeLine(made))
				return nil
			})
		},
	}
	cmd.Flags().Var(&labels, "label", "Set metadata of the snapshot")
	cmd.Flags().BoolVar(&live, "live", false, "Copy the volume although containers write to it: no one moment of it")
	cmd.Flags().StringVar(&group.Container, "of-container", "", "Keep all volumes of this container")
	cmd.Flags().StringVar(&group.Project, "of-project", "", "Keep all volumes of this compose project")
	addQuiesce(cmd, &group.Quiesce, "", "Have what writes to the volume hold still: on, try or freeze")
	return cmd
}

// addQuiesce adds the flag; alone it means "on".
func addQuiesce(cmd *cobra.Command, to *string, off, usage string) {
	cmd.Flags().StringVar(to, "quiesce", "", usage)
	cmd.Flags().Lookup("quiesce").NoOptDefVal = "on"
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch *to {
		case "", "on", "try", "freeze", off:
			return nil
		}
		return fmt.Errorf("invalid --quiesce %q: want on, try or freeze", *to)
	}
}

func runSnapshotGroup(ctx context.Context, dockerCli command.Cli, r api.SnapshotGroup) error {
	return withHoldfast(dockerCli, func(hf *client.Client) error {
		all, err := hf.CreateSnapshots(ctx, r)
		if err != nil {
			return err
		}
		for _, s := range all {
			fmt.Fprintln(dockerCli.Out(), s.Volume+"@"+s.Name)
			fmt.Fprintf(dockerCli.Err(), "%s: %s\n", s.Volume, madeLine(s.VolumeCopied))
		}
		return nil
	})
}

// quietWords says how those who wrote were had to hold still.
func quietWords(hook string, paused int64, why string) string {
	var b strings.Builder
	if hook != "" {
		fmt.Fprintf(&b, "; held by %s", hook)
	}
	if hook != "" || paused > 0 {
		fmt.Fprintf(&b, ", writes waited %s", time.Duration(paused).Round(time.Millisecond))
	}
	if why != "" {
		fmt.Fprintf(&b, "; %s", why)
	}
	return b.String()
}

// madeLine says how a copy came about.
func madeLine(m api.VolumeCopied) string {
	took := time.Duration(m.TookNanos).Round(time.Millisecond)
	quiet := quietWords(m.Hook, m.PausedNanos, m.Why)
	if m.Hook != "" {
		quiet = "; " + consistencyWords(m.Consistency) + quiet
	}
	switch m.Method {
	case "copy":
		return fmt.Sprintf("copied %d files, %s, in %s", m.Files, units.HumanSize(float64(m.Bytes)), took) + quiet
	case "reflink":
		return fmt.Sprintf("%d files share their blocks, in %s", m.Files, took) + quiet
	}
	return fmt.Sprintf("by %s, in %s", m.Method, took) + quiet
}

func newSnapshotList(dockerCli command.Cli) *cobra.Command {
	var (
		quiet  bool
		format string
	)
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS] [VOLUME]",
		Aliases:           []string{"list"},
		Short:             "List snapshots, oldest first",
		Args:              dockercli.RequiresMaxArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				volume := ""
				if len(args) == 1 {
					volume = args[0]
				}
				list, err := hf.Snapshots(cmd.Context(), volume)
				if err != nil {
					return err
				}
				if quiet {
					format = "{{.Name}}"
				}
				return writeSnapshots(dockerCli, format, list)
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show names")
	cmd.Flags().StringVar(&format, "format", "table", `Format output using a Go template, "table TEMPLATE", or "json"`)
	return cmd
}

func writeSnapshots(dockerCli command.Cli, format string, list []api.Snapshot) error {
	if format == formatter.TableFormatKey {
		format = "table {{.Name}}\t{{.Created}}\t{{.Consistency}}\t{{.Method}}\t{{.Protected}}\t{{.Users}}\t{{.Why}}"
	}
	fctx := formatter.Context{Output: dockerCli.Out(), Format: formatter.Format(format)}
	header := snapshotRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "SNAPSHOT", "Created": "CREATED", "Consistency": "CONSISTENCY", "Hook": "HOOK", "Paused": "PAUSED", "Group": "GROUP", "Method": "METHOD", "Protected": "PROTECTED", "Users": "CONTAINERS", "Why": "WHY",
	}}}
	return fctx.Write(&header, func(show func(formatter.SubContext) error) error {
		for _, s := range list {
			if err := show(&snapshotRow{s: s, now: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
}

// snapshotRow is one snapshot for a template.
type snapshotRow struct {
	formatter.HeaderContext
	s   api.Snapshot
	now time.Time
}

// MarshalJSON is for the format "json".
func (r *snapshotRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

// Name is VOLUME@SNAPSHOT.
func (r *snapshotRow) Name() string { return r.s.Volume + "@" + r.s.Name }

// Created is how long ago.
func (r *snapshotRow) Created() string {
	return units.HumanDuration(r.now.Sub(r.s.Created)) + " ago"
}

// Consistency is what it shows.
func (r *snapshotRow) Consistency() string {
	if r.s.Hook != "" {
		return r.s.Consistency + " (" + r.s.Hook + ")"
	}
	return r.s.Consistency
}

// Hook is what had those who wrote hold still.
func (r *snapshotRow) Hook() string { return r.s.Hook }

// Paused is how long they had to wait.
func (r *snapshotRow) Paused() string {
	if r.s.Hook == "" && r.s.PausedNanos == 0 {
		return ""
	}
	return time.Duration(r.s.PausedNanos).Round(time.Millisecond).String()
}

// Group is what was made as of the same moment.
func (r *snapshotRow) Group() string { return r.s.Group }

// Method is how it was made.
func (r *snapshotRow) Method() string { return r.s.Method }

// Protected tells whether it can be removed.
func (r *snapshotRow) Protected() string {
	if r.s.Protected {
		return "yes"
	}
	return "no"
}

// Users is how many containers have it.
func (r *snapshotRow) Users() string { return fmt.Sprint(len(r.s.Users)) }

// Why is for those nobody asked for by name.
func (r *snapshotRow) Why() string { return r.s.Why }

func newSnapshotInspect(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect VOLUME@SNAPSHOT [VOLUME@SNAPSHOT...]",
		Short: "Show snapshots with their sizes, as JSON",
		Args:  dockercli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				out := []api.Snapshot{}
				err := eachSnapshot(args, func(volume, name string) error {
					s, err := hf.Snapshot(cmd.Context(), volume, name)
					if err == nil {
						out = append(out, s)
					}
					return err
				})
				enc := json.NewEncoder(dockerCli.Out())
				enc.SetIndent("", "    ")
				return errors.Join(err, enc.Encode(out))
			})
		},
	}
}

// eachSnapshot does all of them and tells of all that failed.
func eachSnapshot(args []string, do func(volume, name string) error) error {
	var errs []error
	for _, a := range args {
		volume, name, err := splitSnapshot(a)
		if err == nil {
			err = do(volume, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func newSnapshotRemove(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm VOLUME@SNAPSHOT [VOLUME@SNAPSHOT...]",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots",
		Args:    dockercli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				return eachSnapshot(args, func(volume, name string) error {
					if err := hf.RemoveSnapshot(cmd.Context(), volume, name); err != nil {
						return err
					}
					fmt.Fprintln(dockerCli.Out(), volume+"@"+name)
					return nil
				})
			})
		},
	}
}

func newRollback(dockerCli command.Cli) *cobra.Command {
	var keep string
	cmd := &cobra.Command{
		Use:   "rollback [OPTIONS] VOLUME@SNAPSHOT",
		Short: "Put the state of a snapshot in place of a volume's",
		Long: `Put the state of a snapshot in place of a volume's. What it replaces is kept as
another snapshot, and the snapshot itself stays. No container may be running with
the volume.`,
		Args: dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, name, err := splitSnapshot(args[0])
			if err != nil {
				return err
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				made, err := hf.Rollback(cmd.Context(), volume, name, api.Rollback{Keep: keep})
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), volume)
				fmt.Fprintf(dockerCli.Err(), "%s; what was there is kept as %s@%s\n", madeLine(made), volume, made.Name)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&keep, "keep", "", "Name of the snapshot that keeps what is replaced (default: made of the time)")
	return cmd
}

type snapshotPruneOptions struct {
	api.SnapshotPrune
	olderThan string
	force     bool
}

func newSnapshotPrune(dockerCli command.Cli) *cobra.Command {
	var o snapshotPruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS] [VOLUME]",
		Short: "Remove old snapshots",
		Long: `Remove old snapshots, of one volume or of all. Protected ones and those that
containers have are left alone. Say by --keep-last how many of each volume stay, by
--older-than how old those are that go, or --all.`,
		Args:              dockercli.RequiresMaxArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Volume = args[0]
			}
			return runSnapshotPrune(cmd.Context(), dockerCli, o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.KeepLast, "keep-last", 0, "Keep that many newest ones of each volume")
	flags.StringVar(&o.olderThan, "older-than", "", `Only remove older ones ("36h", "7d")`)
	flags.BoolVarP(&o.All, "all", "a", false, "Remove all of them")
	flags.BoolVar(&o.DryRun, "dry-run", false, "Only show what would go")
	flags.BoolVarP(&o.force, "force", "f", false, "Do not ask")
	return cmd
}

func runSnapshotPrune(ctx context.Context, dockerCli command.Cli, o snapshotPruneOptions) error {
	if o.olderThan != "" {
		d, err := parseAge(o.olderThan)
		if err != nil {
			return err
		}
		o.OlderThanNanos = d.Nanoseconds()
	}
	return withHoldfast(dockerCli, func(hf *client.Client) error {
		plan := o.SnapshotPrune
		plan.DryRun = true
		list, err := hf.PruneSnapshots(ctx, plan)
		if err != nil {
			return err
		}
		if o.DryRun || len(list) == 0 {
			return printNames(dockerCli, list)
		}
		if !o.force {
			ok, err := prompt.NewPrompt(dockerCli.In(), dockerCli.Out()).Confirm(fmt.Sprintf("This removes %d snapshots. Go on?", len(list)), false)
			if err != nil {
				return err
			}
			if !ok {
				return errors.New("nothing was removed")
			}
		}
		if list, err = hf.PruneSnapshots(ctx, o.SnapshotPrune); err != nil {
			return err
		}
		return printNames(dockerCli, list)
	})
}

func printNames(dockerCli command.Cli, list []api.Snapshot) error {
	for _, s := range list {
		fmt.Fprintln(dockerCli.Out(), s.Volume+"@"+s.Name)
	}
	return nil
}

// parseAge is time.ParseDuration with days.
func parseAge(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(days + "h")
		if err == nil && d > 0 {
			return 24 * d, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("invalid age %q: want \"36h\" or \"7d\"", s)
	}
	return d, nil
}
