// Package database tells which database a container is, from what it says of itself:
// labels, image, command, environment, ports. It decides on data alone and asks nobody.
//
// It is a guess, so nothing that it says may break a container that is something else:
// the preflight warns, and a hook runs only where somebody asked for a quiet volume.
package database
