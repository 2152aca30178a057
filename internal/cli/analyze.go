package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/cli/streams"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client/pkg/jsonmessage"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

type analyzeOptions struct {
	api.AnalyzeRequest
	json      bool
	failUnder float64
	noTrunc   bool
}

func newAnalyze(dockerCli command.Cli) *cobra.Command {
	var o analyzeOptions
	cmd := &cobra.Command{
		Use:   "analyze [OPTIONS] IMAGE",
		Short: "Show what each layer of an image holds, what is wasted, and what to do about it",
		Long: `Show, layer by layer, what an image's layers add, change and remove; what of it
the image does not show any more, because later layers overwrite or delete it;
which content several layers hold; which other images share its layers; and what
could be done better.

The efficiency is 100 x (1 - (wasted + duplicated) / bytes of all layers).
With --fail-under the exit code is 1 if it is less.`,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: completion.ImageNames(dockerCli, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Image = args[0]
			return runAnalyze(cmd.Context(), dockerCli, o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Top, "top", 10, "How many files to list, up to 1000")
	flags.BoolVar(&o.json, "json", false, "Print the analysis as JSON")
	flags.Float64Var(&o.failUnder, "fail-under", 0, "Exit with 1 if the efficiency is under this, in percent")
	flags.StringVar(&o.Platform, "platform", "", `Analyse the image of this platform ("os[/arch[/variant]]")`)
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate what made a layer")
	return cmd
}

func runAnalyze(ctx context.Context, dockerCli command.Cli, o analyzeOptions) error {
	if math.IsNaN(o.failUnder) || o.failUnder < 0 || o.failUnder > 100 {
		return fmt.Errorf("invalid --fail-under %v: want 0 to 100", o.failUnder)
	}
	if o.Top < 1 {
		return fmt.Errorf("invalid --top %d: want at least 1", o.Top)
	}
	hf := client.New(dockerCli.Client().Dialer())
	defer hf.Close()
	found, err := askAnalysis(ctx, hf, dockerCli.Err(), o.AnalyzeRequest)
	if err != nil {
		return err
	}
	if o.json {
		enc := json.NewEncoder(dockerCli.Out())
		enc.SetIndent("", "  ")
		err = enc.Encode(found)
	} else {
		err = printAnalysis(dockerCli.Out(), found, !o.noTrunc)
	}
	if err != nil {
		return err
	}
	if found.Efficiency < o.failUnder {
		return dockercli.StatusError{StatusCode: 1, Status: fmt.Sprintf("efficiency %s %% is under %v %%", percent(found.Efficiency), o.failUnder)}
	}
	return nil
}

// askAnalysis shows on a terminal how much of each layer has been read.
func askAnalysis(ctx context.Context, hf *client.Client, errOut *streams.Out, r api.AnalyzeRequest) (api.ImageAnalysis, error) {
	if !errOut.IsTerminal() {
		return hf.AnalyzeImage(ctx, r)
	}
	return hf.AnalyzeImageTold(ctx, r, func(messages iter.Seq2[jsonstream.Message, error]) error {
		return jsonmessage.DisplayJSONMessages(messages, errOut, errOut.FD(), true, nil)
	})
}

// percent rounds down: what is under a bound must not look as if it were not.
func percent(v float64) string {
	return strconv.FormatFloat(math.Floor(v*10)/10, 'f', 1, 64)
}

func human(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func fileCount(c api.FileCount) string {
	if c.Files == 0 {
		return "-"
	}
	return fmt.Sprintf("%d, %s", c.Files, human(c.Bytes))
}

const createdByWidth = 50

func printAnalysis(out io.Writer, a api.ImageAnalysis, trunc bool) error {
	name := a.ID
	if len(a.Names) > 0 {
		name = strings.Join(a.Names, ", ")
	}
	fmt.Fprintf(out, "%s: %d layers, %s in files, analysed in %s\n", name, len(a.Layers), human(a.Bytes), time.Duration(a.TookNanos).Round(time.Millisecond))
	fmt.Fprintf(out, "Efficiency %s %%: %s wasted, %s duplicated\n\n", percent(a.Efficiency), human(a.Wasted), human(a.Duplicated))
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "LAYER\tSTORED\tADDED\tCHANGED\tREMOVED\tWASTED\tDUPLICATED\tCREATED BY")
	for _, l := range a.Layers {
		by := printable(strings.Join(strings.Fields(l.CreatedBy), " "))
		if r := []rune(by); trunc && len(r) > createdByWidth {
			by = string(r[:createdByWidth-1]) + "…"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Index, human(l.BlobSize),
			fileCount(l.Added), fileCount(l.Changed), fileCount(l.Removed), human(l.Wasted), human(l.Duplicated), by)
	}
	if len(a.TopWasted) > 0 {
		fmt.Fprintln(w, "\nWASTED\tBY LAYER\tHOW\tFILE")
		for _, v := range a.TopWasted {
			fmt.Fprintf(w, "%s\t%d\t%s\t/%s\n", human(v.Bytes), v.By, v.How, printable(v.Path))
		}
	}
	if len(a.TopCopies) > 0 {
		fmt.Fprintln(w, "\nDUPLICATED\tLAYERS\tFILES")
		for _, v := range a.TopCopies {
			var paths []string
			for _, p := range v.Paths {
				paths = append(paths, "/"+printable(p))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", human(v.Bytes), numbers(v.Layers), strings.Join(paths, ", "))
		}
	}
	if len(a.Shared) > 0 {
		fmt.Fprintln(w, "\nSHARES WITH\tLAYERS\tIN FILES")
		for _, v := range a.Shared {
			name := strings.Join(v.Names, ", ")
			if name == "" {
				name = v.ID
			}
			fmt.Fprintf(w, "%s\t%d of %d\t%s\n", name, v.Layers, len(a.Layers), human(v.Bytes))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, v := range a.Advice {
		if i == 0 {
			fmt.Fprintln(out, "\nADVICE")
		}
		fmt.Fprintf(out, "- %s\n", v.Text)
	}
	return nil
}

// printable keeps what an image's author wrote from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func numbers(list []int) string {
	var out []string
	for _, n := range list {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, ", ")
}
