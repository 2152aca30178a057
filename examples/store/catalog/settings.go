package catalog

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ContextVar is the environment variable with the primary's connection string.
// The name is one that .NET services use; ContextVarPlain is the same for shells,
// which cannot set a name with a colon.
const (
	ContextVar      = "ConnectionStrings:StoreContext"
	ContextVarPlain = "ConnectionStrings__StoreContext"
	// ReadHostsVar names the standbys: host names, separated by commas.
	ReadHostsVar = "STORE_READ_HOSTS"
)

// Settings say where the servers are.
type Settings struct {
	Host     string
	Port     uint16
	Database string
	User     string
	Password string
	// ReadHosts are names of standbys; each may stand for several addresses.
	ReadHosts []string
}

// SettingsFrom reads settings from an environment.
func SettingsFrom(lookup func(string) (string, bool)) (Settings, error) {
	get := func(name, otherwise string) string {
		if v, ok := lookup(name); ok && v != "" {
			return v
		}
		return otherwise
	}
	s := Settings{
		Port:     5432,
		User:     get("POSTGRES_USER", "postgres"),
		Password: get("POSTGRES_PASSWORD", "postgres"),
		Database: get("POSTGRES_DB", "store"),
	}
	text := get(ContextVar, get(ContextVarPlain, ""))
	if text == "" {
		return s, fmt.Errorf("%s is not set: want something like Host=db-master;Database=store;", ContextVar)
	}
	if err := s.parse(text); err != nil {
		return s, fmt.Errorf("%s: %w", ContextVar, err)
	}
	for _, h := range strings.Split(get(ReadHostsVar, "db-slave"), ",") {
		if h = strings.TrimSpace(h); h != "" {
			s.ReadHosts = append(s.ReadHosts, h)
		}
	}
	return s, nil
}

// parse reads a connection string of the form Key=Value;Key=Value;
func (s *Settings) parse(text string) error {
	for part := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" {
			// The part may be a password: it is not repeated.
			return errors.New("a part between semicolons is not Key=Value")
		}
		switch strings.ReplaceAll(strings.ToLower(key), " ", "") {
		case "host", "server":
			s.Host = value
		case "port":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return fmt.Errorf("port %q is not a number from 1 to 65535", value)
			}
			s.Port = uint16(n)
		case "database":
			s.Database = value
		case "username", "userid", "user":
			s.User = value
		case "password":
			s.Password = value
		default:
			return fmt.Errorf("unknown key %q", key)
		}
	}
	if s.Host == "" {
		return errors.New("no Host in it")
	}
	return nil
}

// url is the connection string of one server.
func (s Settings) url(host string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(s.User, s.Password),
		Host:   net.JoinHostPort(host, strconv.Itoa(int(s.Port))),
		Path:   "/" + s.Database,
		RawQuery: url.Values{
			"sslmode":         {"disable"}, // one network, one host
			"connect_timeout": {"2"},
		}.Encode(),
	}
	return u.String()
}
