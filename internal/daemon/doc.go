// Package daemon is the composition root: it builds every part, joins the
// domains' ports with their adapters, and owns the order of start and stop. It
// imports everything, so almost nobody may import it: cmd/holdfastd alone.
package daemon
