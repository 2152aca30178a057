package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// newStorage is the group of what Holdfast tells about disk space.
func newStorage(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "storage",
		Short: "See who takes the disk, and keep it clean",
		Args:  dockercli.NoArgs,
		RunE:  command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newStoragePolicy(dockerCli), newStorageLog(dockerCli), newStorageTop(dockerCli), newStorageExplain(dockerCli), newStorageRepair(dockerCli))
	return cmd
}

// storageCommand is a command without arguments that asks the daemon one thing
// and prints it, as JSON if wanted.
func storageCommand[T any](
	dockerCli command.Cli, use, short string, ask func(context.Context, *client.Client) (T, error), show func(command.Cli, T) error,
) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               use + " [OPTIONS]",
		Short:             short,
		Args:              dockercli.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hf := client.New(dockerCli.Client().Dialer())
			defer hf.Close()
			out, err := ask(cmd.Context(), hf)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(dockerCli, out)
			}
			return show(dockerCli, out)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print as JSON")
	return cmd
}

func newStoragePolicy(dockerCli command.Cli) *cobra.Command {
	cmd := storageCommand(dockerCli, "policy", "Show the storage policy and what it says of everything unused",
		func(ctx context.Context, hf *client.Client) (api.StoragePolicy, error) { return hf.StoragePolicy(ctx) }, printPolicy)
	cmd.Long = `Show the storage policy of the daemon's configuration (the key "storage-policy"
of daemon.json), and what it would remove now of what nobody uses, and why.
It never takes a named volume, an image that a container has, or what runs.`
	cmd.AddCommand(storageCommand(dockerCli, "run", "Run the storage policy now",
		func(ctx context.Context, hf *client.Client) (api.StorageRun, error) { return hf.RunStoragePolicy(ctx) },
		func(dockerCli command.Cli, r api.StorageRun) error { return printRuns(dockerCli, []api.StorageRun{r}) }))
	return cmd
}

func newStorageLog(dockerCli command.Cli) *cobra.Command {
	return storageCommand(dockerCli, "log", "Show what the storage policy removed, and why",
		func(ctx context.Context, hf *client.Client) ([]api.StorageRun, error) { return hf.StorageLog(ctx) }, printRuns)
}

func printPolicy(dockerCli command.Cli, p api.StoragePolicy) error {
	out := dockerCli.Out()
	fmt.Fprintf(out, "Disk: %s used of %s, %s free\n", human(p.Disk.Used), human(p.Disk.Total), human(p.Disk.Free))
	if p.HighWater != "" {
		low, state := p.LowWater, "below"
		if low == "" {
			low = "a tenth less"
		}
		if p.Over {
			state = "above"
		}
		fmt.Fprintf(out, "High-water mark: %s (the disk is %s it), cleaned down to: %s\n", p.HighWater, state, low)
	}
	if p.Idle {
		fmt.Fprintln(out, `No rules: nothing is removed without being asked for ("storage-policy" in daemon.json).`)
		return nil
	}
	for _, kind := range slices.Sorted(maps.Keys(p.Rules)) {
		r := p.Rules[kind]
		var keeps []string
		if r.KeepLast > 0 {
			keeps = append(keeps, "the newest "+strconv.Itoa(r.KeepLast))
		}
		if r.KeepUntilNanos > 0 {
			keeps = append(keeps, "what is younger than "+units.HumanDuration(time.Duration(r.KeepUntilNanos)))
		}
		if len(r.KeepIfLabel) > 0 {
			keeps = append(keeps, "what has the label "+strings.Join(r.KeepIfLabel, " or "))
		}
		if len(keeps) == 0 {
			keeps = []string{"nothing that is unused"}
		}
		fmt.Fprintf(out, "Of kind %s it keeps %s\n", kind, strings.Join(keeps, ", "))
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tID\tNAME\tFREES\tGOES\tWHY")
	for _, v := range p.Verdicts {
		goes := "no"
		if v.Goes {
			goes = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Kind, shortID(v.ID), shortName(v.Name), human(v.Frees), goes, v.Why)
	}
	return w.Flush()
}

func printRuns(dockerCli command.Cli, runs []api.StorageRun) error {
	out := dockerCli.Out()
	if len(runs) == 0 {
		fmt.Fprintln(out, "The storage policy has removed nothing yet.")
		return nil
	}
	for _, r := range runs {
		removed := 0
		for _, i := range r.Items {
			if i.Removed {
				removed++
			}
		}
		fmt.Fprintf(out, "%s: %s, disk %s of %s: removed %d, freed %s\n", r.At.Local().Format(time.DateTime), r.Why, human(r.Used), human(r.Total), removed, human(r.Freed))
		if r.Error != "" {
			fmt.Fprintf(out, "  failed: %s\n", r.Error)
		}
		w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
		for _, i := range r.Items {
			what := "removed"
			if !i.Removed {
				what = "kept: used meanwhile"
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", what, i.Kind, shortID(i.ID), shortName(i.Name), human(i.Frees), i.Why)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func newStorageTop(dockerCli command.Cli) *cobra.Command {
	var (
		by string
		n  int
	)
	cmd := storageCommand(dockerCli, "top", "Show who grows: containers, volumes, image repositories, build cache",
		func(ctx context.Context, hf *client.Client) ([]api.StorageGrowth, error) {
			return hf.StorageTop(ctx, by)
		},
		func(dockerCli command.Cli, all []api.StorageGrowth) error {
			w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "KIND\tNAME\tNOW\tHOUR\tDAY\tWEEK")
			for _, g := range all[:min(n, len(all))] {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", g.Kind, shortName(g.Name), human(g.Bytes), grew(g.Hour), grew(g.Day), grew(g.Week))
			}
			return w.Flush()
		})
	cmd.Flags().StringVar(&by, "by", "day", "Sort by growth over this: hour, day, week")
	cmd.Flags().IntVarP(&n, "last", "n", 20, "Show this many")
	return cmd
}

// grew is a difference, or a dash where nothing is known.
func grew(n *int64) string {
	switch {
	case n == nil:
		return "-"
	case *n < 0:
		return "-" + human(-*n)
	}
	return "+" + human(*n)
}

func newStorageExplain(dockerCli command.Cli) *cobra.Command {
	var what string
	cmd := storageCommand(dockerCli, "explain", "Say why bytes are there, and what would free them",
		func(ctx context.Context, hf *client.Client) (api.StorageExplanation, error) {
			return hf.StorageExplain(ctx, what)
		},
		func(dockerCli command.Cli, e api.StorageExplanation) error {
			out := dockerCli.Out()
			name := e.Name
			if name == "" {
				name = e.ID
			}
			size := "size not known"
			if e.Bytes >= 0 {
				size = human(e.Bytes)
				if !e.Exact {
					size += ", measured " + units.HumanDuration(time.Since(e.MeasuredAt)) + " ago"
				}
			}
			fmt.Fprintf(out, "%s %s: %s\n", e.Kind, name, size)
			if e.Path != "" && e.Path != name {
				fmt.Fprintf(out, "at %s\n", e.Path)
			}
			for _, w := range e.Why {
				fmt.Fprintln(out, "It is: "+w)
			}
			for _, f := range e.Frees {
				fmt.Fprintln(out, "To free it: "+f)
			}
			return nil
		})
	cmd.Use = "explain [OPTIONS] PATH|CONTAINER|VOLUME|IMAGE|VOLUME@SNAPSHOT|REMOVED|CACHE|POOL|DIGEST"
	cmd.Args = dockercli.ExactArgs(1)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what = args[0]
		return run(cmd, args)
	}
	return cmd
}

func newStorageRepair(dockerCli command.Cli) *cobra.Command {
	var dryRun bool
	cmd := storageCommand(dockerCli, "repair", "Remove what is on the disk and belongs to nobody",
		func(ctx context.Context, hf *client.Client) ([]api.HostOrphan, error) {
			return hf.StorageRepair(ctx, dryRun)
		},
		func(dockerCli command.Cli, all []api.HostOrphan) error {
			if len(all) == 0 {
				fmt.Fprintln(dockerCli.Out(), "Everything on the disk belongs to something.")
				return nil
			}
			return printOrphans(dockerCli, all)
		})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Show what would be removed; remove nothing")
	return cmd
}

func printOrphans(dockerCli command.Cli, all []api.HostOrphan) error {
	w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "ORPHAN\tSIZE\tREPAIR\tWHY")
	for _, o := range all {
		what := "by hand"
		switch {
		case o.Removed:
			what = "removed"
		case o.Repairable:
			what = "removes it"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Path, human(o.Bytes), what, o.Why)
	}
	return w.Flush()
}

func printHost(dockerCli command.Cli, r api.HostReport) error {
	out := dockerCli.Out()
	fmt.Fprintf(out, "%s: %s on a disk of %s, of which %s are used, %s by others\n\n",
		r.Root, human(r.Walked), human(r.Disk.Total), human(r.Disk.Used), human(max(0, r.Disk.Used-r.Walked)))
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "PART\tON DISK\tIN THE LEDGER\tDIFFERENCE\t")
	for _, p := range r.Parts {
		told, diff := "-", "-"
		if p.Told >= 0 {
			d := p.Walked - p.Told
			told, diff = human(p.Told), grew(&d)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, human(p.Walked), told, diff, p.Note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Pools) > 0 {
		fmt.Fprintln(w, "\nPOOL\tALLOCATED\tON DISK\tUSED\tFILE")
		for _, p := range r.Pools {
			used := human(p.Used)
			if p.Error != "" {
				used = "not known: " + p.Error
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, human(p.Bytes), human(p.OnDisk), used, p.Path)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(r.Orphans) > 0 {
		fmt.Fprintln(out)
		if err := printOrphans(dockerCli, r.Orphans); err != nil {
			return err
		}
	}
	if len(r.DeletedOpen) > 0 {
		fmt.Fprintln(w, "\nDELETED, BUT OPEN\tSIZE\tPROCESS\tCONTAINER")
		for _, f := range r.DeletedOpen {
			fmt.Fprintf(w, "%s\t%s\t%s (%d)\t%s\n", f.Path, human(f.Bytes), f.Command, f.Pid, f.Container)
		}
	}
	return w.Flush()
}
