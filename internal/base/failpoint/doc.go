// Package failpoint breaks the program at named points, for tests of crashes
// and errors. In a program built without the tag "failpoint" Hit does nothing
// and costs nothing.
//
// With the tag, the environment variable HOLDFAST_FAILPOINTS says what happens
// where, e.g.
//
//	volume.create.afterDriver=2*off->1*error(disk gone)->off;container.start=kill
//
// A term is [COUNT*]ACTION; the terms of a point follow each other, each for
// COUNT hits (without COUNT for ever), and after the last one the point is off.
// Actions: off, error, error(TEXT), panic, and kill, which ends the process as
// SIGKILL does.
package failpoint

// EnvVar names the environment variable.
const EnvVar = "HOLDFAST_FAILPOINTS"
