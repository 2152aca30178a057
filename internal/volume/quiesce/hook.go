package quiesce

import (
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume/database"
)

// Labels of containers. Pre and Post are shell commands, run in the container; Post
// runs after each attempt, also where Pre failed or never ran.
const (
	LabelProfile = "holdfast.quiesce" // postgres, mariadb, mysql, freeze, none
	LabelPre     = "holdfast.quiesce.pre"
	LabelPost    = "holdfast.quiesce.post"
	LabelTimeout = "holdfast.quiesce.timeout" // of each command, "10s"
	LabelUser    = "holdfast.quiesce.user"    // who runs them; default: the container's
)

const (
	defaultTimeout = 30 * time.Second
	maxTimeout     = 10 * time.Minute
)

// Lines by which a session says how far it is.
const (
	readyMark = "holdfast-quiesce-ready"
	doneMark  = "holdfast-quiesce-done"
)

// Hook is how the application in one container is told.
type Hook struct {
	Name    string
	User    string
	Timeout time.Duration
	Blocks  bool // what the application wants to write waits while it is held
	// A session: Shell runs with its standard input open, is sent Before, prints
	// readyMark, is sent After and prints doneMark. Else Pre and Post are commands.
	Shell         string
	Before, After string
	Pre, Post     string
}

// treatment is what is done to a writer.
type treatment int

const (
	byFreeze  treatment = iota // nobody knows how to tell it
	byHook                     // it is told
	byNothing                  // its label says that nothing need be done
)

// treat says what is done to a writer that is to be quiet.
func treat(w Writer) (Hook, treatment, error) {
	h := Hook{User: w.Labels[LabelUser], Timeout: defaultTimeout}
	if t := w.Labels[LabelTimeout]; t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 || d > maxTimeout {
			return h, byFreeze, fault.New(errdefs.ErrInvalidArgument, "container %s: label %s: %q is no time between 0 and %s", w.Name, LabelTimeout, t, maxTimeout)
		}
		h.Timeout = d
	}
	if pre, post := w.Labels[LabelPre], w.Labels[LabelPost]; pre != "" || post != "" {
		h.Name, h.Pre, h.Post, h.Blocks = "label", pre, post, true
		return h, byHook, nil
	}
	switch profile := w.Labels[LabelProfile]; profile {
	case "none":
		return h, byNothing, nil
	case "freeze":
		return h, byFreeze, nil
	case "":
		if g := database.Of(w.Facts); !g.Weak && addProfile(&h, string(g.Kind)) {
			return h, byHook, nil
		}
		return h, byFreeze, nil
	default:
		if !addProfile(&h, profile) {
			return h, byFreeze, fault.New(errdefs.ErrInvalidArgument, "container %s: label %s: unknown profile %q: want postgres, mariadb, mysql, freeze or none", w.Name, LabelProfile, profile)
		}
		return h, byHook, nil
	}
}

// addProfile makes the hook a known database's.
func addProfile(h *Hook, profile string) bool {
	switch database.Kind(profile) {
	case database.Postgres:
		// A checkpoint now, so that what a snapshot shows starts at once, and whole
		// pages in the log until the end. Writes go on: the snapshot is one moment.
		h.Shell = `export PGPASSWORD="${PGPASSWORD-${POSTGRES_PASSWORD-}}"
if [ -z "$PGPASSWORD" ] && [ -r "${POSTGRES_PASSWORD_FILE-}" ]; then PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
export PGAPPNAME=holdfast-quiesce
exec psql -X -q -A -t -v ON_ERROR_STOP=1 -U "${PGUSER-${POSTGRES_USER-postgres}}" -d postgres`
		h.Before = `SELECT current_setting('server_version_num')::int >= 150000 AS named, current_setting('wal_level') <> 'minimal' AS logs \gset
\if :logs
\if :named
SELECT pg_backup_start('holdfast', true);
\else
SELECT pg_start_backup('holdfast', true, false);
\endif
\else
CHECKPOINT;
\endif
SELECT '` + readyMark + `';
`
		h.After = `\if :logs
\if :named
SELECT pg_backup_stop(false);
\else
SELECT pg_stop_backup(false, false);
\endif
\endif
SELECT '` + doneMark + `';
`
	case database.MariaDB:
		h.Blocks = true
		h.Shell = mysqlShell("mariadb mysql", "MARIADB", "MYSQL")
		h.Before = "BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT; SELECT '" + readyMark + "';\n"
		h.After = "BACKUP STAGE END; SELECT '" + doneMark + "';\n"
	case database.MySQL:
		h.Blocks = true
		h.Shell = mysqlShell("mysql mariadb", "MYSQL", "MARIADB")
		h.Before = "FLUSH TABLES WITH READ LOCK; SELECT '" + readyMark + "';\n"
		h.After = "UNLOCK TABLES; SELECT '" + doneMark + "';\n"
	case database.None, database.Redis, database.Etcd:
		return false
	default:
		return false
	}
	h.Name = profile
	return true
}

// mysqlShell starts the first client that is there, as root with the image's password.
func mysqlShell(clients string, prefixes ...string) string {
	var b strings.Builder
	for _, p := range prefixes {
		b.WriteString(`: "${MYSQL_PWD=${` + p + `_ROOT_PASSWORD-}}"
if [ -z "$MYSQL_PWD" ] && [ -r "${` + p + `_ROOT_PASSWORD_FILE-}" ]; then MYSQL_PWD=$(cat "$` + p + `_ROOT_PASSWORD_FILE"); fi
[ -n "$MYSQL_PWD" ] || unset MYSQL_PWD
`)
	}
	b.WriteString(`[ -z "${MYSQL_PWD-}" ] || export MYSQL_PWD
for c in ` + clients + `; do command -v $c >/dev/null && exec $c --no-defaults -u root -N -B -n --unbuffered; done
echo "there is no client of the database in this container" >&2
exit 127`)
	return b.String()
}
