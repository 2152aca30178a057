package compat

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

const pgLib = "/usr/lib/postgresql/15"

// entrypoint does what the module expects of a postgres image: a cluster with
// the user and database of the environment, scripts of
// /docker-entrypoint-initdb.d in a server that is then restarted.
const entrypoint = `#!/bin/sh
set -e
[ "$1" = postgres ] || exec "$@"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	echo "$POSTGRES_PASSWORD" > /tmp/pw
	initdb -N -U "$POSTGRES_USER" --pwfile=/tmp/pw --auth-local=trust --auth-host=scram-sha-256 --locale=C -E UTF8
	echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
	pg_ctl -w -o "-c listen_addresses=" start
	[ "$POSTGRES_DB" = postgres ] || psql -U "$POSTGRES_USER" -d postgres -c "create database \"$POSTGRES_DB\""
	for f in /docker-entrypoint-initdb.d/*.sql; do
		[ -e "$f" ] && psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$f"
	done
	pg_ctl -w stop
fi
exec "$@" -c listen_addresses='*'
`

// postgresLayer is Debian's Postgres with the libraries that it needs.
func postgresLayer(t *testing.T) []byte {
	t.Helper()
	if _, err := os.Stat(filepath.Join(pgLib, "bin/postgres")); err != nil {
		testkit.Missing(t, "Postgres 15 (make deps-compat)")
	}
	var files []string
	for _, name := range []string{"postgres", "initdb", "pg_ctl", "psql"} {
		file := filepath.Join(pgLib, "bin", name)
		files = append(files, file)
		out, err := exec.CommandContext(t.Context(), "ldd", file).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", file, err)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") && !slices.Contains(files, word) {
				files = append(files, word)
			}
		}
	}
	libs, err := filepath.Glob(pgLib + "/lib/*.so")
	if err != nil {
		t.Fatal(err)
	}
	// JIT would bring LLVM.
	libs = slices.DeleteFunc(libs, func(f string) bool { return strings.Contains(f, "llvm") })
	files = append(append(files, libs...), "/usr/share/postgresql/15", "/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/GMT")
	for i := range files {
		files[i] = strings.TrimPrefix(files[i], "/")
	}
	tar, err := exec.CommandContext(t.Context(), "tar", append([]string{"-C", "/", "-ch"}, files...)...).Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	return tar
}

func TestTestcontainersPostgres(t *testing.T) {
	layer := postgresLayer(t)
	d := shared.For(t)
	const uid = 70
	d.Load(testkit.ImageSpec{
		Ref: "postgres:15",
		Layers: [][]byte{testkit.BusyboxLayer(t), layer, testkit.Layer{
			"docker-entrypoint.sh":       {Body: entrypoint, Mode: 0o755},
			"etc/passwd":                 {Body: "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n"},
			"etc/group":                  {Body: "root:x:0:\npostgres:x:70:\n"},
			"var/lib/postgresql/data":    {Dir: true, Mode: 0o700, UID: uid},
			"var/run/postgresql":         {Dir: true, Mode: 0o775, UID: uid},
			"docker-entrypoint-initdb.d": {Dir: true},
		}.Tar()},
		Config: map[string]any{
			"User": "postgres", "Entrypoint": []string{"/docker-entrypoint.sh"}, "Cmd": []string{"postgres"}, "ExposedPorts": map[string]any{"5432/tcp": map[string]any{}},
			"Env": []string{"PATH=" + pgLib + "/bin:/usr/bin:/bin", "PGDATA=/var/lib/postgresql/data"}, "StopSignal": "SIGINT",
		},
	})
	run := program(t, "testcontainers")
	step(t, "testcontainers-go", "the Postgres module, with a snapshot restored", func() error {
		// In the daemon's namespace, where the ports are that it publishes.
		out := d.Exec("env", "DOCKER_HOST="+d.Host(), "HOME="+d.Dir()+"/home", "TESTCONTAINERS_RYUK_DISABLED=true", run, "postgres")
		if !strings.HasSuffix(out, "all went well\n") {
			return errors.New(out)
		}
		return nil
	})
}
