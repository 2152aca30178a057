package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Command is what the daemon's command line asks for.
type Command struct {
	Config   Config
	Validate bool // only say whether the configuration is good
	Version  bool // only print the version
	File     string
}

// Parse reads the command line (without the program's name) and the
// configuration file. pflag.ErrHelp after the usage was printed to out. A reload
// calls it again with the same arguments.
func Parse(args []string, out io.Writer) (Command, error) {
	cmd := Command{Config: Default()}
	fs := pflag.NewFlagSet("holdfastd", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.SortFlags = true
	fs.Usage = func() {
		_, _ = fmt.Fprintf(out, "Usage: holdfastd [OPTIONS]\n\nThe container engine's daemon.\n\nOptions:\n%s", fs.FlagUsages()) // nobody to tell
	}
	fs.BoolVar(&cmd.Validate, "validate", false, "Validate the configuration and exit")
	fs.BoolVarP(&cmd.Version, "version", "v", false, "Print version information and exit")
	fs.StringVar(&cmd.File, "config-file", DefaultFile, "Daemon configuration file")
	bind(fs, &cmd.Config)
	if err := fs.Parse(args); err != nil {
		return cmd, err
	}
	if fs.NArg() > 0 {
		return cmd, fmt.Errorf("holdfastd takes no arguments, only flags: %q", fs.Arg(0))
	}
	if cmd.Version {
		return cmd, nil
	}
	if err := readFile(cmd.File, fs, &cmd.Config); err != nil {
		return cmd, fmt.Errorf("unable to configure the daemon with file %s: %w", cmd.File, err)
	}
	// The default file is the default daemon's: one with a root of its own would
	// overwrite it.
	if d := Default(); cmd.Config.Pidfile == d.Pidfile && filepath.Clean(cmd.Config.Root) != d.Root {
		cmd.Config.Pidfile = ""
	}
	cmd.Config.Hosts = withActivation(cmd.Config.Hosts, os.Getenv("LISTEN_FDS") != "" && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()))
	return cmd, cmd.Config.Check()
}

// withActivation serves the sockets that systemd opened: instead of the default
// one, else beside those that the user names. So the unit file needs no -H,
// which would forbid "hosts" in the file.
func withActivation(hosts []string, activated bool) []string {
	if !activated || slices.ContainsFunc(hosts, func(h string) bool { return strings.HasPrefix(h, "fd://") }) {
		return hosts
	}
	if slices.Equal(hosts, Default().Hosts) {
		return []string{"fd://"}
	}
	return append(slices.Clone(hosts), "fd://")
}

// readFile puts the file's settings over the defaults and the flags, which
// cannot overlap.
func readFile(path string, fs *pflag.FlagSet, c *Config) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && !fs.Changed("config-file") {
		return nil
	}
	if err != nil {
		return err
	}
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if len(data) == 0 {
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	if err := checkKeys(raw, fs); err != nil {
		return err
	}
	if _, ok := raw["group"]; ok {
		c.GroupSet = true
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(c); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	if dec.More() {
		return errors.New("invalid JSON: content after the object")
	}
	return nil
}

// checkKeys finds the keys that are unknown, not served, or given by a flag too.
func checkKeys(raw map[string]json.RawMessage, fs *pflag.FlagSet) error {
	known := keys()
	var unknown []string
	var errs []error
	for key := range raw {
		switch {
		case slices.Contains(known, key):
		case unserved(key) != "":
			errs = append(errs, notServed(key, unserved(key)))
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		errs = append(errs, fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", ")))
	}
	var twice []string
	fs.Visit(func(f *pflag.Flag) {
		if v, ok := raw[keyOf(f)]; ok {
			twice = append(twice, fmt.Sprintf("%s: (from flag: %s, from file: %s)", keyOf(f), f.Value, v))
		}
	})
	if len(twice) > 0 {
		errs = append(errs, fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(twice, ", ")))
	}
	return errors.Join(errs...)
}
