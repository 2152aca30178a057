package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

type checkOptions struct {
	target  string
	who     []string // databases
	verbose bool
	json    bool
}

const unsafe = "unsafe"

func newCheck(dockerCli command.Cli) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [OPTIONS] VOLUME|PATH",
		Short: "Try whether a volume or a directory gives databases what they need",
		Long: `Try whether a volume, or a directory of the daemon's machine (an absolute path),
gives databases what they need: ownership and modes that stick, atomic renames,
fsync, locks, shared memory, space. It takes under a second on a local disk and
leaves nothing behind.

With --for the exit code is 1 if one of these databases is not safe there.`,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.target = args[0]
			return runCheck(cmd.Context(), dockerCli, o)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.who, "for", nil, "Database to judge for (etcd, generic, mariadb, postgres, redis, sqlite); may be repeated")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "Show everything that was tried")
	flags.BoolVar(&o.json, "json", false, "Print the report as JSON")
	return cmd
}

func runCheck(ctx context.Context, dockerCli command.Cli, o checkOptions) error {
	hf := client.New(dockerCli.Client().Dialer())
	defer hf.Close()
	r := api.CheckRequest{Volume: o.target, For: o.who}
	if filepath.IsAbs(o.target) {
		r.Volume, r.Path = "", o.target
	}
	found, err := hf.Check(ctx, r)
	if err != nil {
		return err
	}
	if o.json {
		enc := json.NewEncoder(dockerCli.Out())
		enc.SetIndent("", "  ")
		err = enc.Encode(found)
	} else {
		err = printCheck(dockerCli.Out(), found, o.verbose)
	}
	if err != nil {
		return err
	}
	if len(o.who) == 0 {
		return nil
	}
	for _, v := range found.Verdicts {
		if v.Level == unsafe {
			return dockercli.StatusError{StatusCode: 1}
		}
	}
	return nil
}

func printCheck(out io.Writer, r api.CheckReport, verbose bool) error {
	memory := ""
	if r.InMemory {
		memory = ", in memory"
	}
	fmt.Fprintf(out, "%s: %s%s, %s free, fsync %s, tried in %s\n\n", r.Path, r.FSType, memory, units.HumanSize(float64(r.FreeBytes)),
		time.Duration(r.FsyncNanos).Round(10*time.Microsecond), time.Duration(r.TookNanos).Round(time.Millisecond))
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "FOR\tVERDICT\tWHY")
	for _, v := range r.Verdicts {
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.For, v.Level, v.Text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	shown := 0
	for _, p := range r.Probes {
		if !verbose && p.Result == "pass" {
			continue
		}
		if shown == 0 {
			fmt.Fprintln(w, "\nTRIED\tRESULT\tINSTEAD")
		}
		shown++
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Result, strings.TrimSpace(p.Detail))
	}
	return w.Flush()
}
