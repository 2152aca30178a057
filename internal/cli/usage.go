package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// sub finds docker's command below c.
func sub(c *cobra.Command, name string) *cobra.Command {
	for _, s := range c.Commands() {
		if s.Name() == name {
			return s
		}
	}
	panic("docker/cli no longer has " + c.Name() + " " + name)
}

// extendDF gives `system df` the flags --fresh and --host and tells how old sizes are.
func extendDF(cmd *cobra.Command, dockerCli command.Cli) {
	var fresh, host bool
	cmd.Flags().BoolVar(&host, "host", false, "Compare with what is on the disk, and name every difference; it walks everything")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "Measure everything first; it may take long")
	docker := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		hf := client.New(dockerCli.Client().Dialer())
		defer hf.Close()
		if host {
			r, err := hf.StorageHost(cmd.Context())
			if err != nil {
				return err
			}
			if f := cmd.Flags().Lookup("format"); f.Changed && f.Value.String() == "json" {
				return printJSON(dockerCli, r)
			}
			return printHost(dockerCli, r)
		}
		if fresh {
			if _, err := hf.Usage(cmd.Context(), true); err != nil {
				return err
			}
		}
		if err := docker(cmd, args); err != nil || cmd.Flags().Changed("format") {
			return err
		}
		told, err := hf.Usage(cmd.Context(), false)
		if err != nil {
			return nil //nolint:nilerr // an engine that measures when it is asked
		}
		for _, line := range []string{keptLines(told), ageLine(told, time.Now())} {
			if line != "" {
				fmt.Fprintln(dockerCli.Out(), "\n"+line)
			}
		}
		return nil
	}
}

// keptLines tells of what Docker does not know: snapshots of volumes, and the trash.
func keptLines(r api.UsageReport) string {
	var lines []string
	for _, k := range []struct{ kind, one, many, more string }{
		{api.UsageSnapshot, "snapshot of a volume takes", "snapshots of volumes take", "holdfast volume snapshot ls"},
		{api.UsageTrash, "removed volume in the trash takes", "removed volumes in the trash take", "holdfast volume trash ls"},
	} {
		n, bytes, unknown := 0, int64(0), 0
		for _, i := range r.Items {
			switch {
			case i.Kind != k.kind:
				continue
			case i.Disk < 0:
				unknown++
			default:
				bytes += i.Disk
			}
			n++
		}
		if n == 0 {
			continue
		}
		what, size := k.many, human(bytes)
		if n == 1 {
			what = k.one
		}
		if unknown > 0 {
			size += fmt.Sprintf(" and %d of a size not known yet", unknown)
		}
		lines = append(lines, fmt.Sprintf("%d %s %s (%s).", n, what, size, k.more))
	}
	return strings.Join(lines, "\n")
}

// ageLine says how old the sizes of things in use are.
func ageLine(r api.UsageReport, now time.Time) string {
	var (
		n, unknown int
		oldest     time.Duration
	)
	for _, i := range r.Items {
		switch {
		case i.MeasuredAt.IsZero():
			unknown++
		case !i.Exact:
			n++
			oldest = max(oldest, now.Sub(i.MeasuredAt))
		}
	}
	switch {
	case unknown > 0:
		return fmt.Sprintf("%d sizes are not known yet: they are being measured, --fresh waits for them.", unknown)
	case n == 0 || oldest < time.Second:
		return ""
	}
	return fmt.Sprintf("What is in use was measured up to %s ago (%d sizes); --fresh measures it now.", oldest.Round(time.Second), n)
}

// extendVolumeList gives `volume ls` the flag --size.
func extendVolumeList(cmd *cobra.Command, dockerCli command.Cli) {
	var (
		size   bool
		asJSON bool
	)
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Show sizes, how old they are, and how many containers have each volume")
	cmd.Flags().BoolVar(&asJSON, "json", false, "With --size: print as JSON")
	docker := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !size {
			return docker(cmd, args)
		}
		for _, name := range []string{"format", "quiet", "cluster", "filter"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--size does not go with --%s", name)
			}
		}
		return runVolumeSizes(cmd.Context(), dockerCli, asJSON)
	}
}

// volumeSize is one line of `volume ls --size`.
type volumeSize struct {
	Name       string    `json:"name"`
	Driver     string    `json:"driver"`
	Bytes      int64     `json:"bytes"` // -1: not known
	Disk       int64     `json:"disk"`
	Files      int64     `json:"files"`
	MeasuredAt time.Time `json:"measuredAt,omitzero"`
	Exact      bool      `json:"exact"`
}

func runVolumeSizes(ctx context.Context, dockerCli command.Cli, asJSON bool) error {
	hf := client.New(dockerCli.Client().Dialer())
	defer hf.Close()
	list, err := dockerCli.Client().VolumeList(ctx, mobyclient.VolumeListOptions{})
	if err != nil {
		return err
	}
	told, err := hf.Usage(ctx, false)
	if err != nil {
		return err
	}
	sizes := map[string]api.UsageItem{}
	for _, i := range told.Items {
		if i.Kind == api.UsageVolume {
			sizes[i.ID] = i
		}
	}
	rows := make([]volumeSize, len(list.Items))
	for n, v := range list.Items {
		rows[n] = volumeSize{Name: v.Name, Driver: v.Driver, Bytes: -1, Disk: -1, Files: -1}
		if i, ok := sizes[v.Name]; ok && !i.MeasuredAt.IsZero() {
			rows[n] = volumeSize{v.Name, v.Driver, i.Bytes, i.Disk, i.Files, i.MeasuredAt, i.Exact}
		}
	}
	if asJSON {
		return printJSON(dockerCli, rows)
	}
	w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "DRIVER\tVOLUME NAME\tSIZE\tON DISK\tFILES\tMEASURED")
	for _, r := range rows {
		size, disk, files, age := "unknown", "-", "-", "-"
		if r.Bytes >= 0 {
			size, disk, files = units.HumanSize(float64(r.Bytes)), units.HumanSize(float64(r.Disk)), strconv.FormatInt(r.Files, 10)
			age = units.HumanDuration(time.Since(r.MeasuredAt)) + " ago"
			if r.Exact {
				age = "at rest"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Driver, r.Name, size, disk, files, age)
	}
	return w.Flush()
}

func printJSON(dockerCli command.Cli, v any) error {
	enc := json.NewEncoder(dockerCli.Out())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
