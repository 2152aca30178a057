package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/version"
	"github.com/docker/compose/v5/cmd/compatibility"
	"github.com/sirupsen/logrus"
)

// composeName is the name under which the program is compose.
const composeName = "docker-compose"

// Version says which build this is.
type Version struct {
	Version string
	Commit  string
	plugin  bool // this is docker's plugin
}

// tell makes `version` name this build as the client's.
func (v Version) tell() {
	version.PlatformName = "Holdfast"
	version.Version = v.Version
	version.GitCommit = v.Commit
	version.BuildTime = "" // one that is told again and again is no use: the commit tells
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

// Error is empty: the shell tells the user.
func (interrupted) Error() string { return "" }

// Main runs the program with its arguments, the program's name first, and
// returns its exit code.
func Main(args []string, v Version) int {
	args = withCompose(args)
	v.tell()
	ctx, stop := untilSignal(context.Background())
	defer stop()
	if v.plugin = asPlugin(args); v.plugin {
		if len(args) == 2 && args[1] == metadata.MetadataSubcommandName {
			return exitCode(tellPlugin(os.Stdout, v))
		}
		args = append([]string{args[0]}, withoutName(args[1:])...)
		var end func()
		ctx, end = untilDocker(ctx)
		defer end()
	}
	// Plugins are started by docker/cli with what os.Args holds.
	os.Args = args
	err := ended(ctx, run(ctx, args[1:], v))
	if msg := message(err); msg != "" {
		fmt.Fprintln(os.Stderr, msg)
	}
	return exitCode(err)
}

// ended tells the error of a command that a signal cut short by that signal:
// what it says itself depends on where it was, a closed body or a cancelled
// request. A container's exit code stays.
func ended(ctx context.Context, err error) error {
	var (
		sig    interrupted
		status dockercli.StatusError
	)
	if err == nil || errors.As(err, &status) || !errors.As(context.Cause(ctx), &sig) {
		return err
	}
	return sig
}

// withCompose turns the arguments of docker-compose into those of holdfast.
func withCompose(args []string) []string {
	if len(args) == 0 {
		return []string{rootName}
	}
	name := strings.TrimSuffix(filepath.Base(args[0]), ".exe")
	if name != composeName {
		return args
	}
	return append([]string{args[0]}, compatibility.Convert(args[1:])...)
}

// untilSignal returns a context that ends at the first SIGINT or SIGTERM. A
// command that does not heed it is ended by the third.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case s := <-signals:
				sig, ok := s.(syscall.Signal)
				if !ok {
					sig = syscall.SIGTERM
				}
				cancel(interrupted{signal: sig})
				if n == 3 {
					fmt.Fprintln(os.Stderr, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting")
					os.Exit(1)
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// message is what the user is told of an error: nothing where the error is that
// the user stopped the command.
func message(err error) string {
	var sig interrupted
	if err == nil || errors.As(err, &sig) || errdefs.IsCanceled(err) {
		return ""
	}
	return ours(explain(err).Error())
}

// exitCode is Docker's: of a container, of the usage error (125, 126, 127), of
// the signal, 1 for the rest. Being stopped by the user is a success where no
// signal's name is known.
func exitCode(err error) int {
	var (
		sig    interrupted
		status dockercli.StatusError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &sig):
		return 128 + int(sig.signal)
	case errdefs.IsCanceled(err):
		return 0
	case errors.As(err, &status) && status.StatusCode != 0:
		return status.StatusCode
	}
	return 1
}

func run(ctx context.Context, args []string, v Version) error {
	dockerCli, err := command.NewDockerCli(command.WithBaseContext(ctx))
	if err != nil {
		return err
	}
	logrus.SetOutput(dockerCli.Err())

	r := newRoot(dockerCli, v) //nolint:contextcheck // commands get their context when they run
	r.top.SetArgs(args)
	cmd, rest, err := r.top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	// Also where -H and --context are refused together: after this look-up.
	r.endpoint()
	if err := r.top.Initialize(command.WithUserAgent("Holdfast-Client/" + v.Version)); err != nil {
		return err
	}
	if wantsCompletion(rest) {
		if err := r.addPlugins(); err != nil {
			return err
		}
	}
	r.ownPlugins(rest)
	rest, env, err := r.forBuilder(rest)
	if err != nil {
		return err
	}
	if ran, err := r.runPlugin(ctx, rest, env); ran {
		return err
	}
	cmd.SetArgs(rest)
	return cmd.ExecuteContext(ctx)
}
