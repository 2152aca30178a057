package database

import (
	"path"
	"slices"
	"strings"
)

// Kind is a database that something here knows how to treat.
type Kind string

// Kinds of databases. None says that a container is no database, or none that we know.
const (
	None     Kind = ""
	Postgres Kind = "postgres"
	MariaDB  Kind = "mariadb"
	MySQL    Kind = "mysql"
	Redis    Kind = "redis"
	Etcd     Kind = "etcd"
)

// Facts are what a container says of itself.
type Facts struct {
	Image   string // the name it was made with
	Command []string
	Env     []string // NAME=value
	Ports   []string // exposed ones, "5432/tcp"
}

// Guess is a kind, with what it was taken from.
type Guess struct {
	Kind Kind
	Why  string
	// Weak says that only a port speaks for it: a proxy before the database has it too.
	Weak bool
}

// signs are what one kind is known by. They are looked for in this order: the name of
// the image, the program, variables that only its image reads, the port.
type signs struct {
	kind     Kind
	images   []string // last part of the repository
	programs []string
	env      []string
	port     string
}

// table is a function, so that nobody can change it.
func table() []signs {
	return []signs{
		{Postgres, []string{"postgres", "postgresql", "postgis", "timescaledb", "timescaledb-ha", "pgvector", "spilo"}, []string{"postgres", "postmaster"}, []string{"PGDATA"}, "5432/tcp"},
		{MariaDB, []string{"mariadb", "mariadb-galera"}, []string{"mariadbd", "mariadbd-safe"}, []string{"MARIADB_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD_FILE", "MARIADB_ALLOW_EMPTY_ROOT_PASSWORD", "MARIADB_RANDOM_ROOT_PASSWORD"}, ""},
		{MySQL, []string{"mysql", "mysql-server", "percona", "percona-server"}, []string{"mysqld", "mysqld_safe"}, []string{"MYSQL_ROOT_PASSWORD", "MYSQL_ROOT_PASSWORD_FILE", "MYSQL_ALLOW_EMPTY_PASSWORD", "MYSQL_RANDOM_ROOT_PASSWORD"}, "3306/tcp"},
		{Redis, []string{"redis", "valkey", "keydb"}, []string{"redis-server", "valkey-server"}, nil, "6379/tcp"},
		{Etcd, []string{"etcd"}, []string{"etcd"}, []string{"ETCD_DATA_DIR"}, "2379/tcp"},
	}
}

// Of guesses which database a container is.
func Of(f Facts) Guess {
	all := table()
	repo := repository(f.Image)
	for _, s := range all {
		if slices.Contains(s.images, repo) {
			return Guess{Kind: s.kind, Why: "its image is " + f.Image}
		}
	}
	for _, s := range all {
		for _, word := range programs(f.Command) {
			if slices.Contains(s.programs, word) {
				return Guess{Kind: s.kind, Why: "it runs " + word}
			}
		}
	}
	for _, s := range all {
		for _, e := range f.Env {
			if name, _, _ := strings.Cut(e, "="); slices.Contains(s.env, name) {
				return Guess{Kind: s.kind, Why: "it has the variable " + name}
			}
		}
	}
	for _, s := range all {
		if s.port != "" && slices.Contains(f.Ports, s.port) {
			return Guess{Kind: s.kind, Why: "it has the port " + s.port, Weak: true}
		}
	}
	return Guess{}
}

// repository is the last part of an image's name, without tag and digest.
func repository(image string) string {
	name, _, _ := strings.Cut(image, "@")
	name = path.Base(name)
	name, _, _ = strings.Cut(name, ":")
	return name
}

// programs are the words of a command that may be the program: the first one, and the
// first one after an entrypoint's script or a wrapper.
func programs(command []string) []string {
	var out []string
	for _, word := range command {
		if strings.HasPrefix(word, "-") {
			break // options of what came before
		}
		out = append(out, path.Base(word))
		if len(out) == 3 {
			break
		}
	}
	return out
}
