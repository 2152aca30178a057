// Package stateful decides who leads a set of database members, and when.
//
// It is rules over data and time: nothing here touches a clock, a network or a
// disk. A node holds a lease (Holder) that others judge by their own clocks
// (Observer); the record of a set names one leader for one epoch of one term of
// that lease (Record); a new leader comes from members that promised to follow no
// older one, as many as the record's Sync says hold every acknowledged row
// (Choose). docs/design/stateful.md says why that is enough; the tests explore the
// rules exhaustively at small sizes and by simulated histories.
package stateful
