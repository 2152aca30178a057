package database

import (
	"path"
	"strings"
)

// DataDirs are where in its container a database keeps its data, if nothing else was
// said.
func DataDirs(kind Kind, env []string) []string {
	var variable string
	var dirs []string
	switch kind {
	case Postgres:
		variable, dirs = "PGDATA", []string{"/var/lib/postgresql"}
	case MariaDB, MySQL:
		dirs = []string{"/var/lib/mysql"}
	case Redis:
		dirs = []string{"/data", "/var/lib/redis"}
	case Etcd:
		variable, dirs = "ETCD_DATA_DIR", []string{"/var/lib/etcd", "/etcd-data"}
	case None:
	}
	for _, e := range env {
		if name, value, _ := strings.Cut(e, "="); name == variable && path.IsAbs(value) {
			dirs = append(dirs, path.Clean(value))
		}
	}
	return dirs
}

// Holds tells whether something at the place in a container holds one of the
// directories, or a part of one.
func Holds(target string, dirs []string) bool {
	target = path.Clean(target)
	for _, d := range dirs {
		if target == d || strings.HasPrefix(d, target+"/") || strings.HasPrefix(target, d+"/") {
			return true
		}
	}
	return false
}
