// Package usage knows how much disk everything takes, without walking when
// asked. Read-only layers never change and their sizes are containerd's; what
// may change (writable layers, volumes) is in the ledger: measured when it
// stopped changing and, while somebody may write to it, again and again in the
// background, each size with its age. docs/design/usage.md has the rules.
package usage
