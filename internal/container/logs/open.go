package logs

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Names of the drivers.
const (
	JSONFile = "json-file"
	Local    = "local"
	None     = "none"
	Syslog   = "syslog"
	Journald = "journald"
)

// Config names a container's log. Options are the user's.
type Config struct {
	Type          string
	Options       map[string]string
	Path          string // file of json-file
	Dir           string // folder of local and of what sending drivers keep; made where it is missing
	ContainerID   string
	ContainerName string
	ImageID       string
	ImageName     string
	Command       []string // entrypoint and arguments, for the tag
	Labels        map[string]string
	Env           []string
	Created       time.Time
	// ReadOnly opens a log that somebody else may be writing: nothing is made,
	// repaired or rotated, and Follow ends at the end.
	ReadOnly bool
}

// Drivers lists the names that Open knows.
func Drivers() []string { return []string{Journald, JSONFile, Local, None, Syslog} }

// settings are the options of a file driver, read.
type settings struct {
	maxSize  int64 // 0: no limit
	maxFiles int
	compress bool
	nonBlock bool
	buffer   int64
	noCache  bool // of a driver that sends
}

const defaultBuffer = 1 << 20

// Validate checks a driver and its options as a container is created, with
// Docker's texts.
func Validate(driver string, options map[string]string) error {
	_, err := parse(driver, options)
	return err
}

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

func parse(driver string, options map[string]string) (settings, error) {
	var s settings
	if driver == None {
		return s, nil
	}
	switch mode := container.LogMode(options["mode"]); mode {
	case container.LogModeBlocking, container.LogModeUnset:
	case container.LogModeNonBlock:
		s.nonBlock, s.buffer = true, defaultBuffer
	default:
		return s, invalid("logger: logging mode not supported: %s", mode)
	}
	if v, ok := options["max-buffer-size"]; ok {
		if !s.nonBlock {
			return s, invalid("logger: max-buffer-size option is only supported with 'mode=%s'", container.LogModeNonBlock)
		}
		n, err := units.RAMInBytes(v)
		if err != nil {
			return s, invalid("error parsing option max-buffer-size: %v", err)
		}
		s.buffer = n
	}
	switch driver {
	case Syslog, Journald:
		return s, s.parseSending(driver, options)
	case JSONFile:
		s.maxFiles = 1
	case Local:
		s.maxFiles, s.maxSize, s.compress = 5, 20<<20, true
	default:
		return s, invalid("logger: no log driver named '%s' is registered", driver)
	}
	for key := range options {
		switch key {
		case "mode", "max-buffer-size", "max-size", "max-file", "compress",
			"labels", "labels-regex", "env", "env-regex", "tag":
		default:
			if driver == JSONFile {
				return s, invalid("unknown log opt '%s' for json-file log driver", key)
			}
			return s, invalid("unknown log opt '%s' for log driver %s", key, driver)
		}
	}
	return s, s.parseFile(driver, options)
}

// sendingOptions are what drivers that send take.
var sendingOptions = map[string][]string{
	Syslog: {
		"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key",
		"syslog-tls-skip-verify",
	},
	Journald: {},
}

func (s *settings) parseSending(driver string, options map[string]string) error {
	for key := range options {
		switch key {
		case "mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag",
			"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress":
		default:
			if !slices.Contains(sendingOptions[driver], key) {
				return invalid("unknown log opt '%s' for %s log driver", key, driver)
			}
		}
	}
	if err := checkPatterns(options); err != nil {
		return err
	}
	if driver == Syslog {
		if _, err := parseSyslog(options); err != nil {
			return err
		}
	}
	return s.parseCache(options)
}

// parseFile reads the options about the file.
func (s *settings) parseFile(driver string, options map[string]string) error {
	if v, ok := options["max-size"]; ok {
		n, err := units.FromHumanSize(v)
		if err != nil {
			return invalid("%v", err)
		}
		if n <= 0 {
			return invalid("max-size must be a positive number")
		}
		s.maxSize = n
	}
	if v, ok := options["max-file"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return invalid("%v", err)
		}
		if n < 1 {
			return invalid("max-file cannot be less than 1")
		}
		s.maxFiles = n
	}
	if v, ok := options["compress"]; ok {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return invalid("%v", err)
		}
		if b && driver == JSONFile && (s.maxFiles == 1 || s.maxSize == 0) {
			return invalid("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
		s.compress = b
	}
	if s.maxFiles == 1 {
		s.compress = false
	}
	return checkPatterns(options)
}

// checkPatterns compiles the options that are patterns or templates.
func checkPatterns(options map[string]string) error {
	for _, key := range []string{"labels-regex", "env-regex"} {
		if _, err := regexp.Compile(options[key]); err != nil {
			return invalid("%v", err)
		}
	}
	_, err := parseTag(options["tag"])
	return err
}

func makeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

// Open opens a container's log.
func Open(c Config) (Logger, error) {
	s, err := parse(c.Type, c.Options)
	if err != nil {
		return nil, err
	}
	switch c.Type {
	case None:
		return none{}, nil
	case Syslog:
		return openCached(c, s, func() (sender, error) { return dialSyslog(c) })
	case Journald:
		return openCached(c, s, func() (sender, error) { return dialJournal(c, journalSocket) })
	}
	attrs, err := attributes(c)
	if err != nil {
		return nil, err
	}
	path, enc := c.Path, codec(jsonCodec{})
	if c.Type == Local {
		path, enc = filepath.Join(c.Dir, "container.log"), binaryCodec{}
		if !c.ReadOnly {
			if err := makeDir(c.Dir); err != nil {
				return nil, err
			}
		}
	}
	l := &fileLog{name: c.Type, path: path, settings: s, codec: enc, attrs: attrs}
	if c.ReadOnly {
		l.readOnly = true
		return l, nil
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	if s.nonBlock {
		return newRing(l, s.buffer), nil
	}
	return l, nil
}

// Remove deletes a log and its rotated files.
func Remove(c Config) error {
	path := c.Path
	if c.Type == Local || c.Type == Syslog || c.Type == Journald {
		return os.RemoveAll(c.Dir)
	}
	if path == "" {
		return nil
	}
	names, err := filepath.Glob(globEscape(path) + "*")
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// none is the driver that keeps nothing.
type none struct{}

func (none) Name() string      { return None }
func (none) Log(Message) error { return nil }
func (none) Close() error      { return nil }

func (none) Read(context.Context, ReadOptions, func(Message) error) error { return ErrNotReadable() }

// ErrNotReadable is the answer of a log that cannot be read.
func ErrNotReadable() error {
	return fault.New(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
}
