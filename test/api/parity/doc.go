// Package parity holds docs/compatibility.md to the truth: every flag of run,
// create, update and exec that docker's command tree has, and every endpoint and
// filter that the API's own description has, is a row of a table here. A row is
// driven against a daemon; the document is written from the same rows. A flag or
// an endpoint without a row fails the test.
package parity
