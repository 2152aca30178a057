// Package dash is the dashboard: pages that show the disk and what may go, made
// on the server, usable without scripts. It knows the engine by its Backend.
package dash
