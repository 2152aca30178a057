package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// topRow is what a volume did between two looks.
type topRow struct {
	Name       string   `json:"name"`
	Bytes      int64    `json:"bytes"`
	Rate       float64  `json:"bytesPerSecond"` // negative where it shrinks
	Grown      int64    `json:"grown"`          // since the command began
	Files      int64    `json:"files"`
	FilesGrown int64    `json:"filesGrown"`
	Containers []string `json:"containers"` // that run with it
}

// topLook is what is known of the volumes at one time.
type topLook struct {
	items map[string]api.UsageItem
	users map[string][]string
}

// topRows compares looks: who grew or shrank most since the last one is first. What
// was not there then is compared with nothing, what was not measured is left out.
func topRows(first, last, now topLook) []topRow {
	rows := []topRow{}
	for name, i := range now.items {
		r := topRow{Name: name, Bytes: i.Bytes, Grown: i.Bytes, Files: i.Files, FilesGrown: i.Files, Containers: now.users[name]}
		if was, ok := first.items[name]; ok {
			r.Grown, r.FilesGrown = i.Bytes-was.Bytes, i.Files-was.Files
		}
		if was, ok := last.items[name]; ok {
			if d := i.MeasuredAt.Sub(was.MeasuredAt).Seconds(); d > 0 {
				r.Rate = float64(i.Bytes-was.Bytes) / d
			}
		}
		rows = append(rows, r)
	}
	size := func(n float64) float64 { return max(n, -n) }
	slices.SortFunc(rows, func(a, b topRow) int {
		return cmp.Or(
			cmp.Compare(size(b.Rate), size(a.Rate)), cmp.Compare(size(float64(b.Grown)), size(float64(a.Grown))),
			cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return rows
}

type topOptions struct {
	every          time.Duration
	last           int
	noStream, json bool
}

func newVolumeTop(dockerCli command.Cli) *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:   "top [OPTIONS]",
		Short: "Show which volumes are written to now",
		Long: `Show which volumes grow or shrink now, how fast, and which running containers have
them. Sizes are compared: what is written over in place does not show. Only volumes
that may have changed are measured; where that takes longer than the interval, rates
are over the longer time.`,
		Args: dockercli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.every < 100*time.Millisecond {
				return fmt.Errorf("invalid interval %s: at least 100ms", o.every)
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error { return runTop(cmd.Context(), dockerCli, hf, o) })
		},
	}
	flags := cmd.Flags()
	flags.DurationVarP(&o.every, "interval", "i", 2*time.Second, "Time between two looks")
	flags.IntVarP(&o.last, "last", "n", 20, "Show this many")
	flags.BoolVar(&o.noStream, "no-stream", false, "Look twice, show what was between, and end")
	flags.BoolVar(&o.json, "json", false, "Show JSON, a line for each look")
	return cmd
}

func look(ctx context.Context, dockerCli command.Cli, hf *client.Client) (topLook, error) {
	l := topLook{items: map[string]api.UsageItem{}, users: map[string][]string{}}
	r, err := hf.VolumeUsage(ctx)
	if err != nil {
		return l, err
	}
	now := time.Now()
	for _, i := range r.Items {
		if i.Bytes < 0 || i.MeasuredAt.IsZero() {
			continue
		}
		if i.Exact {
			i.MeasuredAt = now // it is still that
		}
		l.items[i.Name] = i
	}
	list, err := dockerCli.Client().ContainerList(ctx, mobyclient.ContainerListOptions{})
	if err != nil {
		return l, err
	}
	for _, c := range list.Items {
		for _, m := range c.Mounts {
			if m.Name != "" && len(c.Names) > 0 {
				l.users[m.Name] = append(l.users[m.Name], strings.TrimPrefix(c.Names[0], "/"))
			}
		}
	}
	return l, nil
}

func runTop(ctx context.Context, dockerCli command.Cli, hf *client.Client, o topOptions) error {
	first, err := look(ctx, dockerCli, hf)
	if err != nil {
		return err
	}
	last := first
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := look(ctx, dockerCli, hf)
		if err != nil {
			return err
		}
		rows := topRows(first, last, now)
		if err := showTop(dockerCli, rows[:min(o.last, len(rows))], o); err != nil || o.noStream {
			return err
		}
		last = now
	}
}

func showTop(dockerCli command.Cli, rows []topRow, o topOptions) error {
	if o.json {
		return json.NewEncoder(dockerCli.Out()).Encode(rows)
	}
	var b bytes.Buffer // at once, so that it does not flicker
	if dockerCli.Out().IsTerminal() && !o.noStream {
		b.WriteString("\x1b[H\x1b[2J")
	}
	if err := writeTop(&b, rows); err != nil {
		return err
	}
	_, err := b.WriteTo(dockerCli.Out())
	return err
}

func writeTop(to io.Writer, rows []topRow) error {
	w := tabwriter.NewWriter(to, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "VOLUME\tSIZE\tRATE\tGROWN\tFILES\tCONTAINERS")
	for _, r := range rows {
		rate, files := int64(r.Rate), fmt.Sprint(r.Files)
		if r.FilesGrown != 0 {
			files = fmt.Sprintf("%d (%+d)", r.Files, r.FilesGrown)
		}
		speed := "-"
		if rate != 0 {
			speed = grew(&rate) + "/s"
		}
		users := strings.Join(r.Containers, ", ")
		if users == "" {
			users = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", shortName(r.Name), human(r.Bytes), speed, grew(&r.Grown), files, users)
	}
	return w.Flush()
}
