package logs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	syslogDial  = 10 * time.Second // to connect
	syslogWrite = 10 * time.Second // to take one message

	severityError, severityInfo = 3, 6
)

// facilities by name, as syslog.conf has them.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
	"authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21,
	"local6": 22, "local7": 23,
}

// localSockets are where a machine's own syslog listens.
var localSockets = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

// syslogTarget is the driver's options, read.
type syslogTarget struct {
	network, addr string // network "" is the machine's own syslog
	tls           bool
	facility      int
	format        string // "", "rfc3164", "rfc5424", "rfc5424micro"
}

func parseSyslog(options map[string]string) (syslogTarget, error) {
	t := syslogTarget{facility: facilities["daemon"], format: options["syslog-format"]}
	switch t.format {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
	default:
		return t, invalid("Invalid syslog format")
	}
	if f := options["syslog-facility"]; f != "" {
		n, ok := facilities[f]
		if !ok {
			var err error
			if n, err = strconv.Atoi(f); err != nil || n < 0 || n > 23 {
				return t, invalid("invalid syslog facility")
			}
		}
		t.facility = n
	}
	address := options["syslog-address"]
	if address == "" {
		return t, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return t, invalid("unable to parse syslog-address: %v", err)
	}
	switch u.Scheme {
	case "unix", "unixgram":
		if _, err := os.Stat(u.Path); err != nil {
			return t, invalid("syslog-address: %v", err)
		}
		t.network, t.addr = u.Scheme, u.Path
	case "udp", "tcp", "tcp+tls":
		host := u.Host
		if _, _, err := net.SplitHostPort(host); err != nil {
			if !strings.Contains(err.Error(), "missing port in address") {
				return t, invalid("syslog-address: %v", err)
			}
			host = net.JoinHostPort(strings.Trim(host, "[]"), "514")
		}
		t.network, t.addr = strings.TrimSuffix(u.Scheme, "+tls"), host
		t.tls = u.Scheme == "tcp+tls"
	default:
		return t, invalid("unsupported scheme: '%s'", u.Scheme)
	}
	return t, nil
}

// syslogSender sends to one syslog. A connection that broke is made anew, once
// for each message.
type syslogSender struct {
	target    syslogTarget
	tlsConfig *tls.Config
	tag, host string

	mu   sync.Mutex // guards conn; held across a write
	conn net.Conn
}

func dialSyslog(c Config) (sender, error) {
	target, err := parseSyslog(c.Options)
	if err != nil {
		return nil, err
	}
	s := &syslogSender{target: target}
	if s.tag, err = tagOf(c, "{{.ID}}"); err != nil {
		return nil, err
	}
	if s.host, err = os.Hostname(); err != nil {
		return nil, err
	}
	if target.tls {
		if s.tlsConfig, err = syslogTLS(c.Options); err != nil {
			return nil, err
		}
	}
	if s.conn, err = s.dial(); err != nil {
		return nil, fmt.Errorf("failed to initialize logging driver: %w", err)
	}
	return s, nil
}

func syslogTLS(options map[string]string) (*tls.Config, error) {
	_, skip := options["syslog-tls-skip-verify"]
	out := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: skip} //nolint:gosec // only when the user insists
	if ca := options["syslog-tls-ca-cert"]; ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("syslog-tls-ca-cert: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("syslog-tls-ca-cert: no certificate in %s", ca)
		}
	}
	if cert := options["syslog-tls-cert"]; cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, options["syslog-tls-key"])
		if err != nil {
			return nil, fmt.Errorf("syslog-tls-cert: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func (s *syslogSender) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: syslogDial}
	switch {
	case s.target.network == "":
		for _, path := range localSockets {
			for _, network := range []string{"unixgram", "unix"} {
				if conn, err := d.Dial(network, path); err == nil {
					return conn, nil
				}
			}
		}
		return nil, errors.New("Unix syslog delivery error: no syslog of this machine takes a connection")
	case s.target.tls:
		return tls.DialWithDialer(&d, s.target.network, s.target.addr, s.tlsConfig)
	}
	return d.Dial(s.target.network, s.target.addr)
}

func (s *syslogSender) send(m Message) error {
	b := s.frame(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		if s.write(b) == nil {
			return nil
		}
		_ = s.conn.Close() // it is broken: the next one tells
		s.conn = nil
	}
	conn, err := s.dial()
	if err != nil {
		return fmt.Errorf("send to syslog: %w", err)
	}
	s.conn = conn
	if err := s.write(b); err != nil {
		return fmt.Errorf("send to syslog: %w", err)
	}
	return nil
}

func (s *syslogSender) write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(syslogWrite)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// frame is one message as it goes over the wire. On a stream it ends with a
// newline; rfc5424 over TLS begins with its length instead (RFC 5425).
func (s *syslogSender) frame(m Message) []byte {
	severity := severityInfo
	if m.Stream == "stderr" {
		severity = severityError
	}
	pri, pid := s.target.facility<<3|severity, os.Getpid()
	var text string
	switch s.target.format {
	case "rfc3164":
		text = fmt.Sprintf("<%d>%s %s %s[%d]: %s", pri, m.Time.Local().Format(time.Stamp), s.host, s.tag, pid, m.Line)
	case "rfc5424":
		text = fmt.Sprintf("<%d>1 %s %s %s %d %s - %s", pri, m.Time.Format(time.RFC3339), s.host, s.tag, pid, s.tag, m.Line)
	case "rfc5424micro":
		text = fmt.Sprintf("<%d>1 %s %s %s %d %s - %s", pri, m.Time.Format("2006-01-02T15:04:05.000000Z07:00"), s.host, s.tag, pid, s.tag, m.Line)
	default:
		text = fmt.Sprintf("<%d>%s %s[%d]: %s", pri, m.Time.Local().Format(time.Stamp), s.tag, pid, m.Line)
	}
	switch {
	case s.target.tls && strings.HasPrefix(s.target.format, "rfc5424"):
		return fmt.Appendf(nil, "%d %s", len(text), text)
	case s.target.network == "tcp", s.target.network == "unix":
		return append([]byte(text), '\n')
	}
	return []byte(text)
}

func (s *syslogSender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}
