// Package testkit runs real daemons for tests. New gives a test its own
// holdfastd: own root, exec-root and socket, in a network and mount namespace
// that outlives the daemon, so that a test can kill -9 it and start it again
// under its running containers.
//
// Whatever a daemon left behind when its test ends fails the test: mounts,
// shims, network namespaces, links, nftables rules, cgroups. When a test fails,
// the daemon's log, a goroutine dump and the mount and nftables tables are kept
// under test/artifacts/<test>/.
//
// Requirements that a machine lacks are skips that name what is missing; under
// CI=true they are failures.
package testkit
