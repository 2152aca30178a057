package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// PostgresLib is where Debian has the server.
const PostgresLib = "/usr/lib/postgresql/15"

// PostgresLayer is this machine's Postgres, from Debian, with the libraries that
// it needs.
func PostgresLayer(t TB) []byte {
	t.Helper()
	if _, err := os.Stat(filepath.Join(PostgresLib, "bin/postgres")); err != nil {
		Missing(t, "Postgres 15 (make deps-compat)")
	}
	var files []string
	for _, name := range []string{"postgres", "initdb", "pg_ctl", "psql", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_isready", "pgbench", "pg_amcheck", "pg_checksums"} {
		file := filepath.Join(PostgresLib, "bin", name)
		files = append(files, file)
		out, err := exec.Command("ldd", file).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", file, err)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") && !slices.Contains(files, word) {
				files = append(files, word)
			}
		}
	}
	libs, err := filepath.Glob(PostgresLib + "/lib/*.so")
	if err != nil {
		t.Fatalf("find Postgres's libraries: %v", err)
	}
	// JIT would bring LLVM.
	libs = slices.DeleteFunc(libs, func(f string) bool { return strings.Contains(f, "llvm") })
	files = append(append(files, libs...), "/usr/share/postgresql/15", "/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/GMT")
	for i := range files {
		files[i] = strings.TrimPrefix(files[i], "/")
	}
	tar, err := exec.Command("tar", append([]string{"-C", "/", "-ch"}, files...)...).Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	return tar
}

// Postgres is an image of Postgres as Debian has it: no entrypoint that knows
// anything of sets.
func Postgres(t TB) ImageSpec {
	t.Helper()
	return ImageSpec{
		Ref: "postgres:15",
		Layers: [][]byte{BusyboxLayer(t), PostgresLayer(t), Layer{
			"etc/passwd":              {Body: "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n"},
			"etc/group":               {Body: "root:x:0:\npostgres:x:999:\n"},
			"run":                     {Dir: true},
			"var/run":                 {Link: "/run"},
			"var/lib":                 {Dir: true},
			"var/lib/postgresql":      {Dir: true, UID: 999},
			"var/lib/postgresql/data": {Dir: true, UID: 999},
		}.Tar()},
		Config: map[string]any{
			"Entrypoint": []string{"/bin/false"}, "Cmd": []string{"postgres"},
			"Env":     []string{"PATH=" + PostgresLib + "/bin:/bin", "PGDATA=/var/lib/postgresql/data"},
			"Volumes": map[string]any{"/var/lib/postgresql/data": map[string]any{}},
		},
	}
}
