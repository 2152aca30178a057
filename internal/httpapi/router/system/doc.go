// Package system serves what concerns the engine as a whole: ping, version,
// info, events, registry login, disk usage. It also answers for the parts of
// Docker's API that this release doesn't have (swarm, plugins, build), in the
// words that clients understand.
package system
