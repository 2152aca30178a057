package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// system is the group whose prune takes all kinds.
const system = "system"

// pruneGroups are docker's groups with a prune, and what each prunes.
var pruneGroups = map[string]string{
	"container": api.PruneContainers, "network": api.PruneNetworks, "volume": api.PruneVolumes,
	"image": api.PruneImages, "builder": api.PruneCache, system: "",
}

// extendPrune gives a prune of docker's the flags --dry-run and --json, and has
// it show what it is about to remove before it asks.
func extendPrune(cmd *cobra.Command, dockerCli command.Cli, group string) {
	var dryRun, asJSON bool
	flags := cmd.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "Show what would be removed, why, and what it frees; remove nothing")
	flags.BoolVar(&asJSON, "json", false, "Print what is (or would be) removed as JSON")
	docker := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		force, err := flags.GetBool("force")
		if err != nil {
			return err
		}
		if asJSON && !dryRun && !force {
			return errors.New("--json asks nothing: it wants --force or --dry-run")
		}
		filtered := flags.Changed("filter")
		if !dryRun && !asJSON && force && !filtered {
			return docker(cmd, args)
		}
		req, err := pruneRequest(cmd, dockerCli, group)
		if err != nil {
			return err
		}
		hf := client.New(dockerCli.Client().Dialer())
		defer hf.Close()
		req.DryRun = dryRun || !asJSON
		rep, err := hf.Prune(cmd.Context(), req)
		switch {
		case err != nil && (dryRun || asJSON):
			return err
		case err != nil: // an engine without plans, or a filter that it refuses in docker's words
			return docker(cmd, args)
		case asJSON:
			return printJSON(dockerCli, rep)
		case len(rep.Items) == 0:
			return printNothing(dockerCli, filtersOf(cmd), filtered)
		case dryRun || !force:
			if err := printPlan(dockerCli, rep); err != nil || dryRun {
				return err
			}
			fmt.Fprintln(dockerCli.Out())
		}
		return docker(cmd, args)
	}
}

// filtersOf tells the filters as the user wrote them.
func filtersOf(cmd *cobra.Command) string {
	var out []string
	if f, ok := cmd.Flags().Lookup("filter").Value.(*opts.FilterOpt); ok {
		for key, values := range f.Value() {
			for v := range values {
				out = append(out, key+"="+v)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func printNothing(dockerCli command.Cli, filters string, filtered bool) error {
	if filtered {
		fmt.Fprintf(dockerCli.Out(), "Nothing to prune: nothing unused matches the filter %s.\n", filters)
	} else {
		fmt.Fprintln(dockerCli.Out(), "Nothing to prune.")
	}
	fmt.Fprintln(dockerCli.Out(), "Total reclaimed space: 0B")
	return nil
}

// pruneRequest says in the daemon's terms what docker's command would ask for,
// in its order.
func pruneRequest(cmd *cobra.Command, dockerCli command.Cli, group string) (api.PruneRequest, error) {
	flags := cmd.Flags()
	given := map[string][]string{}
	if f, ok := flags.Lookup("filter").Value.(*opts.FilterOpt); ok {
		for key, values := range command.PruneFilters(dockerCli, f.Value()) {
			given[key] = slices.Sorted(maps.Keys(values))
		}
	}
	is := func(name string) bool {
		f := flags.Lookup(name)
		return f != nil && f.Value.String() == "true"
	}
	step := func(kind string, extra ...string) api.PruneStep {
		s := api.PruneStep{Kind: kind, Filters: maps.Clone(given)}
		if len(extra) == 2 {
			s.Filters[extra[0]] = append(slices.Clone(s.Filters[extra[0]]), extra[1])
		}
		return s
	}
	dangling := fmt.Sprint(!is("all"))
	switch group {
	case "image":
		return api.PruneRequest{Steps: []api.PruneStep{step(api.PruneImages, "dangling", dangling)}}, nil
	case "volume":
		s := step(api.PruneVolumes)
		if is("all") {
			if _, ok := given["all"]; ok {
				return api.PruneRequest{}, errors.New("conflicting options: cannot specify both --all and --filter all=1")
			}
			s = step(api.PruneVolumes, "all", "true")
		}
		return api.PruneRequest{Steps: []api.PruneStep{s}}, nil
	case "builder":
		s := step(api.PruneCache)
		s.All = is("all")
		if keep, ok := flags.Lookup("keep-storage").Value.(*opts.MemBytes); ok {
			s.Keep = keep.Value()
		}
		return api.PruneRequest{Steps: []api.PruneStep{s}}, nil
	case system:
		_, until := given["until"]
		if is("volumes") && until {
			return api.PruneRequest{}, errors.New(`the "until" filter is not supported with "--volumes"`)
		}
		out := []api.PruneStep{step(api.PruneContainers), step(api.PruneNetworks)}
		if is("volumes") {
			out = append(out, step(api.PruneVolumes))
		}
		out = append(out, step(api.PruneImages, "dangling", dangling))
		cache := step(api.PruneCache)
		cache.All = is("all")
		out = append(out, cache)
		return api.PruneRequest{Steps: out}, nil
	}
	return api.PruneRequest{Steps: []api.PruneStep{step(pruneGroups[group])}}, nil
}

func printPlan(dockerCli command.Cli, r api.PruneReport) error {
	w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tID\tNAME\tSIZE\tFREES\tWHY")
	for _, i := range r.Items {
		size := "-"
		switch {
		case i.Size < 0:
			size = "unknown"
		case i.Kind != api.PruneNetworks:
			size = units.HumanSize(float64(i.Size))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Kind, shortID(i.ID), shortName(i.Name), size, units.HumanSize(float64(i.Frees)), i.Why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(dockerCli.Out(), "\n%d to remove, which frees %s.\n", len(r.Items), units.HumanSize(float64(r.Frees)))
	return nil
}

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 && !strings.ContainsAny(id, "-_.") {
		return id[:12]
	}
	return id
}

func shortName(name string) string {
	name, _, _ = strings.Cut(strings.TrimPrefix(name, "sha256:"), "\n")
	if len(name) > 50 {
		return name[:47] + "..."
	}
	return name
}

// planned says that a builder's prune is ours to serve: buildx has no plans.
func planned(args []string) bool {
	if len(args) < 2 || args[1] != "prune" {
		return false
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--dry-run" || a == "--json" || strings.HasPrefix(a, "--dry-run=") || strings.HasPrefix(a, "--json=")
	})
}
