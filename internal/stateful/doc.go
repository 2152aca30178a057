// Package stateful decides who leads a set of database members, and when.
//
// The rules are over data and time. A node holds a lease (Holder) that others judge
// by their own clocks (Observer); the record of a set names one leader for one epoch
// of one term of that lease (Record); a new leader comes from members that promised
// to follow no older one, as many as the record's Sync says hold every acknowledged
// row (Choose). docs/design/stateful.md says why that is enough; the tests explore
// the rules exhaustively at small sizes.
//
// Two things act by them, through ports that they declare. An Agent on each node
// renews the lease and has the members there do what the records say (NextAct). A
// Controller, on any manager, ends the terms of nodes that are silent and makes new
// leaders (Judge, Choose); several at once do no harm.
package stateful
