// Package volume owns volumes: their records, who refers to them, and the Driver
// port behind which each storage technology lives (one folder each).
package volume
