// Package cluster tests swarms of real daemons through the stock docker CLI.
package cluster
