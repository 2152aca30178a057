// Package postgres holds a Postgres server as a member of a set. It runs in the
// member's container in place of the image's entrypoint.
//
// The server always starts as a standby; only a promotion in an epoch makes it
// writable, and it is killed when the lease of that epoch ends (watch), whatever
// else goes on. Settings are in a file of its own that includes the data's.
//
// What must outlive the container is state.json in a folder beside the volume:
// the epoch promised, the last one led, the history, and the mark of the data. The
// mark is also among the data: where the two do not agree somebody changed the
// data, and the member gets another identity.
package postgres
