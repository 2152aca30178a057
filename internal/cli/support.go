package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docker/cli marks commands and flags with what they ask of the engine.
const (
	needsVersion      = "version"
	needsOS           = "ostype"
	needsExperimental = "experimental"
	needsSwarm        = "swarm"
	onlyOf            = "top-level"
)

// lacks says what an engine lacks that a mark asks for, or "". It asks the engine
// only if there is such a mark: many commands work without one.
func (r *root) lacks(what string, marks func(string) (string, bool)) string {
	if v, ok := marks(needsVersion); ok && v != "" {
		if have := r.cli.CurrentVersion(); versions.LessThan(have, v) {
			return fmt.Sprintf("%s requires API version %s, but the daemon API version is %s", what, v, have)
		}
	}
	if v, ok := marks(needsOS); ok && v != "" {
		if have := r.cli.ServerInfo().OSType; have != "" && have != v {
			return fmt.Sprintf("%s is only supported on a daemon running on %s, but the daemon is running on %s", what, v, have)
		}
	}
	if _, ok := marks(needsExperimental); ok && !r.cli.ServerInfo().HasExperimental {
		return what + " is only supported on a daemon with experimental features enabled"
	}
	return ""
}

func commandMarks(cmd *cobra.Command) func(string) (string, bool) {
	return func(k string) (string, bool) {
		v, ok := cmd.Annotations[k]
		return v, ok
	}
}

func flagMarks(f *pflag.Flag) func(string) (string, bool) {
	return func(k string) (string, bool) {
		v, ok := f.Annotations[k]
		if len(v) == 0 {
			return "", ok
		}
		return v[0], ok
	}
}

// supported refuses a command or a given flag that the engine does not support.
func (r *root) supported(cmd *cobra.Command) error {
	for c := cmd; c != nil; c = c.Parent() {
		if why := r.lacks(cmd.CommandPath(), commandMarks(c)); why != "" {
			return errors.New(why)
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		if why := r.lacks(fmt.Sprintf(`"--%s"`, f.Name), flagMarks(f)); why != "" {
			errs = append(errs, errors.New(why))
		}
	})
	return errors.Join(errs...)
}

// guard checks support before arguments are validated and before a command runs.
func (r *root) guard() {
	r.cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return r.supported(cmd) }
	visit(r.cmd, func(c *cobra.Command) {
		inner := c.Args
		if inner == nil || !marked(c) {
			return
		}
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := r.supported(cmd); err != nil {
				return err
			}
			return inner(cmd, args)
		}
	})
}

func marked(cmd *cobra.Command) bool {
	for c := cmd; c != nil; c = c.Parent() {
		if len(c.Annotations) > 0 {
			return true
		}
	}
	return false
}

func visit(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		visit(c, f)
	}
	f(cmd)
}

// hideUnsupported leaves out of a help text what the engine does not support.
func (r *root) hideUnsupported(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if only, ok := f.Annotations[onlyOf]; ok && cmd.Parent() != nil && !within(cmd, only) {
			f.Hidden = true
		}
		if !f.Hidden {
			f.Hidden = r.lacks("", flagMarks(f)) != ""
		}
	})
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			c.Hidden = r.lacks("", commandMarks(c)) != "" || r.swarmLacks(c)
		}
	}
}

func within(cmd *cobra.Command, names []string) bool {
	for c := cmd; c != nil; c = c.Parent() {
		if slices.Contains(names, c.Name()) {
			return true
		}
	}
	return false
}

// swarmLacks says whether a command needs more of a swarm than the engine has. An
// engine that says nothing about swarms is given the benefit of the doubt.
func (r *root) swarmLacks(cmd *cobra.Command) bool {
	need, ok := cmd.Annotations[needsSwarm]
	if !ok {
		return false
	}
	status := r.cli.ServerInfo().SwarmStatus
	switch {
	case status == nil:
		return false
	case need == "manager":
		return !status.ControlAvailable
	case need == "active":
		return status.NodeState == "inactive"
	}
	return false
}
