// Command holdfastd is the container engine's daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"holdfast.dev/holdfast/internal/daemon"
	"holdfast.dev/holdfast/internal/daemon/config"
)

// Set by the Makefile.
var (
	version   = "dev"
	commit    = ""
	buildTime = ""
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "holdfastd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	cmd, err := config.Parse(args, os.Stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	case cmd.Version:
		fmt.Printf("Holdfast version %s, build %s\n", version, commit)
		return nil
	case cmd.Validate:
		fmt.Println("configuration OK")
		return nil
	}

	d, err := daemon.New(daemon.Options{
		Config:  cmd.Config,
		Version: daemon.Version{Version: version, Commit: commit, BuildTime: buildTime},
		Reload: func() (config.Config, error) {
			next, err := config.Parse(args, os.Stdout)
			return next.Config, err
		},
		LogTo: os.Stderr,
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return d.Run(ctx)
}
