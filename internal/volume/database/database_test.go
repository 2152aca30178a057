package database

import "testing"

func TestOf(t *testing.T) {
	for name, tt := range map[string]struct {
		f    Facts
		want Kind
		weak bool
	}{
		"nothing":                       {Facts{}, None, false},
		"official image":                {Facts{Image: "postgres:17-alpine"}, Postgres, false},
		"with a registry and a port":    {Facts{Image: "registry.local:5000/library/postgres"}, Postgres, false},
		"by digest":                     {Facts{Image: "postgres@sha256:abc"}, Postgres, false},
		"an exporter is no database":    {Facts{Image: "prom/postgres-exporter:v1", Env: []string{"DATA_SOURCE_NAME=x"}}, None, false},
		"a client's variable":           {Facts{Image: "shop", Env: []string{"PGHOST=db", "POSTGRES_PASSWORD=x"}}, None, false},
		"own image, entrypoint":         {Facts{Image: "acme/db", Command: []string{"/entrypoint.sh", "postgres", "-c", "x=y"}}, Postgres, false},
		"own image, variable":           {Facts{Image: "acme/db", Env: []string{"PGDATA=/data"}}, Postgres, false},
		"a script that is about it":     {Facts{Image: "acme/backup", Command: []string{"sh", "-c", "pg_dump postgres"}}, None, false},
		"an argument is not a program":  {Facts{Image: "acme/app", Command: []string{"app", "--database", "postgres"}}, None, false},
		"mariadb":                       {Facts{Image: "mariadb"}, MariaDB, false},
		"mysql's variable":              {Facts{Image: "acme/db", Env: []string{"MYSQL_ROOT_PASSWORD=x"}}, MySQL, false},
		"an app's mysql variable":       {Facts{Image: "wordpress", Env: []string{"MYSQL_PASSWORD=x"}}, None, false},
		"image before variables":        {Facts{Image: "mariadb:11", Env: []string{"MYSQL_ROOT_PASSWORD=x"}}, MariaDB, false},
		"redis":                         {Facts{Image: "bitnami/redis:7"}, Redis, false},
		"etcd by program":               {Facts{Command: []string{"/usr/local/bin/etcd", "--name", "x"}}, Etcd, false},
		"only a port: perhaps a proxy":  {Facts{Image: "edoburu/pgbouncer", Ports: []string{"5432/tcp"}}, Postgres, true},
		"a port of UDP is another port": {Facts{Image: "x", Ports: []string{"5432/udp"}}, None, false},
	} {
		got := Of(tt.f)
		if got.Kind != tt.want || got.Weak != tt.weak || (got.Kind != None) != (got.Why != "") {
			t.Errorf("%s: got %+v, want %q (weak %v)", name, got, tt.want, tt.weak)
		}
	}
}

func TestHolds(t *testing.T) {
	env := []string{"X=y", "PGDATA=/srv/pg/main", "ETCD_DATA_DIR=relative"}
	for target, want := range map[string]bool{
		"/var/lib/postgresql/data": true, "/var/lib/postgresql/": true, "/srv/pg": true, "/srv/pg/main/pg_wal": true,
		"/srv": true, "/srv/p": false, "/docker-entrypoint-initdb.d": false, "/etc/postgresql.conf": false,
	} {
		if got := Holds(target, DataDirs(Postgres, env)); got != want {
			t.Errorf("%s: got %v", target, got)
		}
	}
	if got := DataDirs(Etcd, env); Holds("/relative", got) || !Holds("/var/lib/etcd", got) {
		t.Errorf("etcd: %v", got)
	}
}
