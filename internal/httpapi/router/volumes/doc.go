// Package volumes serves what Holdfast does with volumes beyond Docker's API:
// snapshots, clones, names, protection, export and import (package api).
package volumes
