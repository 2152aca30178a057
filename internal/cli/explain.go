package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

var (
	// misprint matches docker/cli's refusal of a --mount field like type-volume.
	misprint = regexp.MustCompile(`invalid field '((?:type|source|src|target|destination|dst|readonly|ro|volume-[a-z]+|bind-[a-z]+|tmpfs-[a-z]+))-([^'=]+)' must be a key=value pair`)
	// folder matches the engine's refusal of a volume that is named like a folder.
	folder = regexp.MustCompile(`create (/[^:]*): .* includes invalid characters for a local volume name`)
	// noList matches compose's refusal of a list whose items lost their blank: -'80:80'.
	noList = regexp.MustCompile(`services\.\S+ must be an? (?:array|list|mapping)`)
	// deployNode matches compose's refusal of deploy: {node: global}.
	deployNode = regexp.MustCompile(`services\.\S+\.deploy additional properties 'node' not allowed`)
)

// explain adds to an error what was probably meant.
func explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var told hinted
	if strings.Contains(text, hint) || errors.As(err, &told) {
		return err
	}
	if m := misprint.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%w%s%s=%s?)", err, hint, m[1], m[2])
	}
	if m := folder.FindStringSubmatch(text); m != nil {
		return hinted{err, fmt.Sprintf("a volume has a name, not a path; for the folder %s of the host say type=bind", m[1])}
	}
	switch {
	case noList.MatchString(text):
		return hinted{err, "an item of a list needs a blank after its dash, as in: - '8080:80'"}
	case deployNode.MatchString(text):
		return fmt.Errorf("%w%smode?)", err, hint)
	}
	return err
}

const hint = " (did you mean "

// hinted is an error with a hint before docker/cli's line about help.
type hinted struct {
	error
	hint string
}

// Error implements error.
func (h hinted) Error() string {
	text, help, ok := strings.Cut(h.error.Error(), "\n\n")
	text += "\n" + h.hint
	if ok {
		text += "\n\n" + help
	}
	return text
}

// Unwrap lets the exit code be found.
func (h hinted) Unwrap() error { return h.error }

// ours replaces the program's name where docker/cli has its own built in.
func ours(msg string) string {
	const prefix, help = "docker: ", "\n\nRun 'docker "
	if rest, ok := strings.CutPrefix(msg, prefix); ok && strings.Contains(rest, help) {
		msg = rootName + ": " + strings.Replace(rest, help, "\n\nRun '"+rootName+" ", 1)
	}
	return strings.Replace(msg,
		"Cannot connect to the Docker daemon at "+DefaultHost+". Is the docker daemon running?",
		"Cannot connect to the Holdfast daemon at "+DefaultHost+". Is holdfastd running?", 1)
}

// explainFlags makes usage errors say what was meant.
func (r *root) explainFlags() {
	inner := r.cmd.FlagErrorFunc()
	r.cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// What the engine does not support is said first.
		if err := r.supported(cmd); err != nil {
			return err
		}
		return inner(cmd, explain(err))
	})
}
