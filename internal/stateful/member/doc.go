// Package member is how a node's agent speaks to the helper in a member's
// container: one JSON request and its answer for each connection to a socket that
// both see. Moments go over as nanoseconds of the machine's clock that counts from
// its start and never stops (CLOCK_BOOTTIME), the same in and outside of containers.
package member
