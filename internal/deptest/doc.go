// Package deptest checks the shape of the tree: which packages a program or a
// layer must never come to depend on, also indirectly, and that each package
// says what it is. The direct imports are depguard's (.golangci.yml).
package deptest
