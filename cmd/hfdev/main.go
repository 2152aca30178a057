// Command hfdev is the developer's tool behind the make targets: it runs the
// tests and counts them, fuzzes decoders, and measures the engine against others. It is never
// shipped.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage:
  hfdev test [-run REGEXP] [-count N] [-race DIR] [CLASS...]
                                                   run tests: unit, api, cluster, e2e, chaos (default: all but chaos)
  hfdev fuzz [-time 10s] [-short] [-run REGEXP]    run every fuzz target for a while
  hfdev up [-n 4] [-managers 1]                    a cluster of nodes on this machine; all of these take -name
  hfdev ls | down                                  show it, take it down
  hfdev exec NODE [COMMAND...]                     run a program in a node, with its DOCKER_HOST
  hfdev logs NODE [-f]                             a node's daemon log
  hfdev kill | stop | start NODE                   a node's daemon: kill -9, SIGTERM, start again
  hfdev partition | heal NODE                      cut a node off the others, join it again
  hfdev races FILE...                              fail for the race detector's reports that are not known
  hfdev twin -in DIR -write FILE                   the table of test/compat on both engines
  hfdev bench [-quick] [-write FILE]               measure against docker and podman
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "test":
		err = runTests(ctx, os.Args[2:])
	case "fuzz":
		err = runFuzz(ctx, os.Args[2:])
	case "races":
		err = runRaces(os.Args[2:])
	case "twin":
		err = runTwin(os.Args[2:])
	case "bench":
		err = runBench(ctx, os.Args[2:])
	case "up", "keep", "down", "ls", "exec", "logs", "kill", "stop", "start", "partition", "heal":
		err = runCluster(ctx, os.Args[1], os.Args[2:])
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hfdev:", err)
		os.Exit(1)
	}
}
