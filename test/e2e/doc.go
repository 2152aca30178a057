// Package e2e runs the store of the course notes on the engine, from compose
// files, and looks at its page in a browser.
package e2e
