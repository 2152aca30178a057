package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/streams"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/cli/stackfile"
)

// extendStack has docker's stack commands take what compose takes.
func extendStack(stack *cobra.Command, dockerCli *command.DockerCli) {
	for _, name := range []string{"deploy", "config"} {
		cmd := sub(stack, name)
		inner := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			files, ok := cmd.Flag("compose-file").Value.(pflag.SliceValue)
			if raw := cmd.Flag("skip-interpolation"); !ok || len(files.GetSlice()) == 0 || raw != nil && raw.Changed {
				return inner(cmd, args)
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return withStack(cmd.Context(), dockerCli, stackfile.Request{Stack: name, Files: files.GetSlice()}, func(s *stackfile.Stack) error {
				b, err := s.YAML()
				if err != nil {
					return err
				}
				if err := files.Replace([]string{"-"}); err != nil {
					return err
				}
				dockerCli.SetIn(streams.NewIn(io.NopCloser(bytes.NewReader(b))))
				return inner(cmd, args)
			})
		}
	}
}

// withStack loads a stack and says what a swarm will not do of it. What it is made
// of is there until do returns.
func withStack(ctx context.Context, dockerCli command.Cli, r stackfile.Request, do func(*stackfile.Stack) error) (err error) {
	if r.Scratch, err = os.MkdirTemp("", "holdfast-stack-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.Scratch)) }()
	r.In = dockerCli.In()
	s, err := stackfile.Load(ctx, r)
	if err != nil {
		return err
	}
	tellIgnored(dockerCli.Err(), s.Ignored)
	return do(s)
}

func tellIgnored(to io.Writer, ignored []string) {
	if len(ignored) > 0 {
		fmt.Fprintf(to, "Ignoring what a swarm cannot do: %s\n\n", strings.Join(ignored, ", "))
	}
}

// refused matches compose's words for a file that is not as it must be.
var refused = regexp.MustCompile(`must be an? |additional propert|yaml: |is not allowed`)

// extendCompose has compose say where a mistake is, and print what docker's stacks
// take.
func extendCompose(cmd *cobra.Command, dockerCli *command.DockerCli) {
	for _, c := range cmd.Commands() {
		if c.RunE == nil {
			continue
		}
		if c.Name() == "config" {
			stackConfig(c, dockerCli)
		}
		inner := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			err := inner(c, args)
			if err == nil || !refused.MatchString(err.Error()) {
				return err
			}
			files, ferr := composeFiles(c)
			if ferr != nil {
				return err
			}
			return stackfile.Explain(err, files)
		}
	}
}

// composeFiles are those that a command of compose reads.
func composeFiles(cmd *cobra.Command) ([]string, error) {
	files, err := cmd.Parent().Flags().GetStringArray("file") // a flag of compose, not of its commands
	if err != nil {
		return nil, err
	}
	return stackfile.Files(files)
}

// stackConfig gives `config` the form of docker's stacks: asked by --stack, and
// where docker-compose reads a file that says that it is of version 3. The second
// only if nothing is lost by it: the file may be compose's again.
func stackConfig(cmd *cobra.Command, dockerCli *command.DockerCli) {
	asked := cmd.Flags().Bool("stack", false, `Print the form that "docker stack deploy" takes`)
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *asked {
			for _, f := range configModes {
				if cmd.Flag(f).Changed {
					return fmt.Errorf("--stack and --%s cannot be used together", f)
				}
			}
		} else if !ofVersion3(cmd) {
			return inner(cmd, args)
		}
		to := cmd.Flag("output").Value.String()
		text, err := printed(cmd, func() error { return inner(cmd, args) })
		if err != nil {
			return err
		}
		form, ignored, err := formOf(text)
		switch {
		case err == nil && (*asked || len(ignored) == 0):
			tellIgnored(dockerCli.Err(), ignored)
			text = form
		case *asked:
			return err
		}
		if to != "" {
			return atomicfile.Write(to, text, 0o666)
		}
		_, err = dockerCli.Out().Write(text)
		return err
	}
}

// printed is what config would print: it is made to write a file.
func printed(cmd *cobra.Command, config func() error) (text []byte, err error) {
	dir, err := os.MkdirTemp("", "holdfast-config-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := filepath.Join(dir, "stack.yml")
	if err := cmd.Flags().Set("output", f); err != nil {
		return nil, err
	}
	if err := config(); err != nil {
		return nil, err
	}
	return os.ReadFile(f)
}

// configModes are the flags of config that have it print something else.
var configModes = []string{"format", "quiet", "services", "volumes", "networks", "models", "profiles", "images", "hash", "variables", "environment", "no-interpolate", "lock-image-digests"}

// ofVersion3 tells whether docker-compose is asked for the whole of a file that
// says so, as it was written for docker-compose 1 and docker's stacks.
func ofVersion3(cmd *cobra.Command) bool {
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") != composeName {
		return false
	}
	for _, f := range configModes {
		if cmd.Flag(f).Changed {
			return false
		}
	}
	files, err := composeFiles(cmd)
	if err != nil || len(files) == 0 {
		return false
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return false // compose says why
	}
	var head struct {
		Version string `yaml:"version"`
	}
	return yaml.Unmarshal(b, &head) == nil && (head.Version == "3" || strings.HasPrefix(head.Version, "3."))
}

// formOf turns what config printed.
func formOf(text []byte) (form []byte, ignored []string, err error) {
	var model map[string]any
	if err := yaml.Unmarshal(text, &model); err != nil {
		return nil, nil, err
	}
	out, ignored, err := stackfile.Form(model, stackfile.Options{Known: true})
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(out), enc.Close()); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), ignored, nil
}
