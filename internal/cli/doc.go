// Package cli is the program holdfast: docker/cli's commands and docker/compose
// under our name, talking to our socket unless told otherwise. Invoked as
// docker-compose it is compose itself.
//
// Contexts, credentials and plugins are Docker's: they come from the same folder
// (~/.docker), so a user of docker finds everything in place. Exit codes and
// messages are Docker's too.
package cli
