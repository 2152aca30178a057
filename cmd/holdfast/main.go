// Command holdfast is the client: docker's commands and compose, for our engine.
// Invoked as docker-compose it is compose.
package main

import (
	"os"

	"holdfast.dev/holdfast/internal/cli"
)

// Set by the Makefile.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	os.Exit(cli.Main(os.Args, cli.Version{Version: version, Commit: commit}))
}
