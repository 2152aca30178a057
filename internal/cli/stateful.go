package cli

import (
	"context"
	"encoding/json"
	"fmt"
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

func newStateful(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stateful COMMAND",
		Short: "Manage stateful sets: databases of several members, one of which leads",
		Long: `Manage stateful sets: databases of several members, one of which leads.

A service with the label holdfast.stateful.profile=postgres is a set:

    docker service create --name db --network host --replicas 3 \
        --label holdfast.stateful.profile=postgres -e POSTGRES_PASSWORD=… \
        --mount type=volume,source=data,target=/var/lib/postgresql/data IMAGE

With an overlay network in place of host, db leads to its leader and db-ro to its
followers, from every node.`,
		Args: dockercli.NoArgs,
		RunE: command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newStatefulList(dockerCli), newStatefulStatus(dockerCli), newStatefulInspect(dockerCli), newStatefulHistory(dockerCli),
		newStatefulSwitchover(dockerCli), newStatefulRebuild(dockerCli), newStatefulPause(dockerCli), newStatefulResume(dockerCli))
	return cmd
}

func newStatefulList(dockerCli command.Cli) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List stateful sets",
		Args:              dockercli.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				all, err := hf.StatefulSets(cmd.Context())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(dockerCli.Out(), 0, 0, 3, ' ', 0)
				if !quiet {
					fmt.Fprintln(w, "NAME\tPROFILE\tSYNCHRONOUS\tMEMBERS\tLEADER\tEPOCH\tSTATE")
				}
				for _, s := range all {
					if quiet {
						fmt.Fprintln(w, s.Name)
						continue
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\t%s\n", s.Name, s.Profile, s.Synchronous, len(s.Members), dash(s.Leader), s.Epoch, setState(s))
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show names")
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// setState says in a few words how a set is.
func setState(s api.StatefulSet) string {
	var words []string
	switch {
	case s.Writable:
		words = append(words, "writable")
		if s.Protected {
			words = append(words, "protected")
		}
	case s.Waiting != "":
		words = append(words, "waiting: "+s.Waiting)
	default:
		words = append(words, "not writable")
	}
	if s.Paused {
		words = append(words, "paused")
	}
	return strings.Join(words, ", ")
}

func newStatefulStatus(dockerCli command.Cli) *cobra.Command {
	return statefulOne(dockerCli, "status", "Show the members of a stateful set", func(s api.StatefulSet) error {
		out := dockerCli.Out()
		fmt.Fprintf(out, "%s: epoch %d, %s\n", s.Name, s.Epoch, setState(s))
		if s.Writable && !s.Protected {
			fmt.Fprintf(out, "not protected against the loss of its leader: %s\n", s.Unprotected)
		}
		w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "MEMBER\tNODE\tADDRESS\tSTATE\tEPOCH\tLAG\tACKNOWLEDGES\tPROBLEM")
		for _, m := range s.Members {
			lag, asks := "-", "-"
			if m.Lag != nil {
				lag = units.HumanSize(float64(*m.Lag))
			}
			if m.Acknowledges {
				asks = "yes"
			}
			fmt.Fprintf(w, "%s\t%s\t%s:%d\t%s\t%d\t%s\t%s\t%s\n", m.Name, m.Node, m.Address, s.Port, m.Phase, m.Epoch, lag, asks, m.Problem)
		}
		return w.Flush()
	})
}

func newStatefulInspect(dockerCli command.Cli) *cobra.Command {
	return statefulOne(dockerCli, "inspect", "Show all of a stateful set as JSON", func(s api.StatefulSet) error {
		enc := json.NewEncoder(dockerCli.Out())
		enc.SetIndent("", "    ")
		return enc.Encode(s)
	})
}

func newStatefulHistory(dockerCli command.Cli) *cobra.Command {
	return statefulOne(dockerCli, "history", "Show who led a stateful set, and when", func(s api.StatefulSet) error {
		w := tabwriter.NewWriter(dockerCli.Out(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "TIME\tEPOCH\tWHAT")
		for _, e := range s.History {
			fmt.Fprintf(w, "%s\t%d\t%s\n", e.Time.Local().Format(time.RFC3339), e.Epoch, e.What)
		}
		return w.Flush()
	})
}

// statefulOne is a command that shows one set.
func statefulOne(dockerCli command.Cli, verb, short string, show func(api.StatefulSet) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " SET",
		Short:             short,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				s, err := hf.StatefulSet(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return show(s)
			})
		},
	}
}

func newStatefulSwitchover(dockerCli command.Cli) *cobra.Command {
	var (
		r    api.StatefulSwitchover
		wait time.Duration
	)
	cmd := &cobra.Command{
		Use:   "switchover [OPTIONS] SET",
		Short: "Have another member lead, with nothing lost",
		Long: `Have another member lead, with nothing lost: the leader writes out what it has,
stops when its followers have everything, and another takes over.`,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				ctx := cmd.Context()
				before, err := hf.StatefulSet(ctx, args[0])
				if err != nil {
					return err
				}
				if err := hf.SwitchStatefulSet(ctx, args[0], r); err != nil {
					return err
				}
				for end := time.Now().Add(wait); ; {
					s, err := hf.StatefulSet(ctx, args[0])
					if err == nil && s.Epoch > before.Epoch && s.Writable {
						fmt.Fprintf(dockerCli.Out(), "%s leads in epoch %d\n", s.Leader, s.Epoch)
						return nil
					}
					if time.Now().After(end) {
						return fmt.Errorf("the switchover of %s is asked for, and has not happened within %v: see %s stateful status %s", args[0], wait, rootName, args[0])
					}
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(100 * time.Millisecond):
					}
				}
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.To, "to", "", "The member that shall lead")
	flags.DurationVar(&wait, "wait", time.Minute, "How long to wait until it does")
	return cmd
}

func newStatefulRebuild(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild SET MEMBER",
		Short: "Have a member of a stateful set throw its data away and clone the leader's",
		Long: `Have a member of a stateful set throw its data away and clone the leader's. It is
refused for the leader, and for the last follower that has every acknowledged row.`,
		Args:              dockercli.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				return hf.RebuildStatefulMember(cmd.Context(), args[0], api.StatefulRebuild{Member: args[1]})
			})
		},
	}
}

func newStatefulPause(dockerCli command.Cli) *cobra.Command {
	return statefulVerb(dockerCli, "pause", "Have nobody replace the leader of a stateful set", (*client.Client).PauseStatefulSet)
}

func newStatefulResume(dockerCli command.Cli) *cobra.Command {
	return statefulVerb(dockerCli, "resume", "End a pause of a stateful set", (*client.Client).ResumeStatefulSet)
}

func statefulVerb(dockerCli command.Cli, verb, short string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " SET",
		Short:             short,
		Args:              dockercli.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error { return do(hf, cmd.Context(), args[0]) })
		},
	}
}
