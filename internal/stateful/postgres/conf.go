package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/stateful"
)

// settings are those that change while the server runs.
type settings struct {
	ack      stateful.Ack
	ackEpoch uint64
	upstream *stateful.Follow // nil: none
}

// Role is who members connect to each other as.
const Role = "holdfast"

// nobody is a follower that never comes.
const nobody = "nobody"

// appName is what a follower calls itself. It says the epoch: whom the leader of
// an older one asked for does not acknowledge for a newer one.
func appName(identity string, epoch uint64) string {
	return identity + "@" + strconv.FormatUint(epoch, 10)
}

func identityOf(app string, epoch uint64) (string, bool) {
	return strings.CutSuffix(app, "@"+strconv.FormatUint(epoch, 10))
}

// standbyNames is the server's setting for a.
func standbyNames(a stateful.Ack, epoch uint64) string {
	if a.Count == 0 {
		return ""
	}
	names := make([]string, 0, len(a.Members))
	for _, m := range a.Members {
		names = append(names, ident(appName(m, epoch)))
	}
	if len(names) == 0 {
		names = []string{ident(nobody)}
	}
	return fmt.Sprintf("ANY %d (%s)", a.Count, strings.Join(names, ", "))
}

func slotName(member string) string {
	return "holdfast_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, member)
}

func conninfo(f *stateful.Follow, app string) string {
	q := func(v string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	}
	return fmt.Sprintf("host=%s port=%d user=%s password=%s application_name=%s connect_timeout=3 keepalives_idle=3 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=4000",
		q(f.Host), f.Port, Role, q(f.Secret), q(app))
}

// inConf quotes for a configuration file, where backslashes count.
var inConf = strings.NewReplacer(`\`, `\\`, `'`, `''`)

func (s *Server) confPath() string { return filepath.Join(s.c.StateDir, "postgresql.conf") }

// writeConf writes the server's settings; it reads them at its start and when told.
func (s *Server) writeConf(v settings) error {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s = '%s'\n", name, inConf.Replace(value)) }
	b.WriteString("# Written by Holdfast. Settings of your own belong into the data's postgresql.conf,\n# or to the end of the service's command: -c name=value.\n")
	for _, f := range s.c.Include {
		set("include_if_exists", f)
	}
	set("listen_addresses", "*")
	set("port", strconv.Itoa(s.c.Port))
	set("unix_socket_directories", s.c.SocketDir)
	set("hba_file", filepath.Join(s.c.StateDir, "pg_hba.conf"))
	set("ident_file", filepath.Join(s.c.StateDir, "pg_ident.conf"))
	set("cluster_name", s.c.Member)
	for _, kv := range [][2]string{
		{"wal_level", "replica"},
		{"hot_standby", "on"},
		{"wal_log_hints", "on"},
		{"fsync", "on"},
		{"full_page_writes", "on"},
		{"max_wal_senders", "16"},
		{"max_replication_slots", "16"},
		{"max_slot_wal_keep_size", "2GB"},
		{"wal_keep_size", "128MB"},
		{"wal_receiver_status_interval", "1s"},
		{"wal_sender_timeout", "5s"},
		{"wal_receiver_timeout", "5s"},
		{"wal_retrieve_retry_interval", "200ms"},
		{"recovery_target_timeline", "latest"},
		{"restart_after_crash", "off"},
		{"password_encryption", "scram-sha-256"},
		{"synchronous_standby_names", standbyNames(v.ack, v.ackEpoch)},
	} {
		set(kv[0], kv[1])
	}
	if v.upstream != nil {
		set("primary_conninfo", conninfo(v.upstream, appName(s.identity(), v.upstream.Epoch)))
		set("primary_slot_name", slotName(s.c.Member))
	} else {
		set("primary_conninfo", "")
		set("primary_slot_name", "")
	}
	return s.file("postgresql.conf", b.String())
}

// reserved are settings that a set cannot leave to others.
var reserved = []string{
	"port", "hba_file", "ident_file", "config_file", "data_directory", "listen_addresses", "unix_socket_directories",
	"synchronous_standby_names", "primary_conninfo", "primary_slot_name", "restart_after_crash", "fsync", "full_page_writes",
	"hot_standby", "wal_level", "recovery_target_timeline", "wal_log_hints",
}

// Args takes the service's command: postgres and its options.
func Args(cmd []string) ([]string, error) {
	if len(cmd) > 0 && filepath.Base(cmd[0]) == "postgres" {
		cmd = cmd[1:]
	}
	for i := 0; i < len(cmd); i++ {
		var kv string
		switch {
		case cmd[i] == "-c" && i+1 < len(cmd):
			i++
			kv = cmd[i]
		case strings.HasPrefix(cmd[i], "-c"):
			kv = cmd[i][2:]
		case strings.HasPrefix(cmd[i], "--"):
			kv = cmd[i][2:]
		default:
			return nil, fmt.Errorf("a member of a set runs postgres with options of the form -c name=value only, not %q", cmd[i])
		}
		name, _, _ := strings.Cut(kv, "=")
		name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
		for _, r := range reserved {
			if name == r {
				return nil, fmt.Errorf("the setting %s of a member of a set is Holdfast's", name)
			}
		}
	}
	return cmd, nil
}

// writeAccess writes who may connect: the superuser by the socket as the server's
// user or root, members for replication, everybody by password.
func (s *Server) writeAccess() error {
	method := "scram-sha-256"
	if s.c.Trust {
		method = "trust"
	}
	su := ident(s.c.Superuser)
	hba := "local all " + su + " peer map=holdfast\nlocal all all " + method + "\n" +
		"host replication " + Role + " all scram-sha-256\nhost all " + Role + " all reject\nhost all all all " + method + "\n"
	users := "holdfast root " + su + "\nholdfast " + s.c.Owner + " " + su + "\n"
	if err := s.file("pg_hba.conf", hba); err != nil {
		return err
	}
	return s.file("pg_ident.conf", users)
}

// file writes one that the server reads.
func (s *Server) file(name, body string) error {
	p := filepath.Join(s.c.StateDir, name)
	if err := atomicfile.Write(p, []byte(body), 0o600); err != nil {
		return err
	}
	return s.own(p)
}

// own gives a file to the server's user.
func (s *Server) own(path string) error {
	if os.Getuid() != 0 {
		return nil
	}
	return os.Chown(path, s.c.UID, s.c.GID)
}
