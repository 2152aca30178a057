package logs

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"

	"github.com/docker/go-units"
)

// Drivers that send messages elsewhere cannot read them back: what they send is
// kept in a local file too, so that `docker logs` works, as in Docker. The
// options of that file begin with "cache-"; cache-disabled does without it.

// sender passes messages to a log outside of the daemon.
type sender interface {
	send(m Message) error
	Close() error
}

// cached is a sender and the file that is read in its stead.
type cached struct {
	name  string
	to    sender   // nil: open for reading only
	cache *fileLog // nil: cache-disabled
}

func (l *cached) Name() string { return l.name }

func (l *cached) Log(m Message) error { return l.logAll([]Message{m}, nil) }

// logAll tries each message, and keeps them all whatever becomes of it: the
// error is the first one.
func (l *cached) logAll(ms []Message, note Note) error {
	if l.to == nil {
		return errors.New("log is open for reading only")
	}
	var first error
	for _, m := range ms {
		if err := l.to.send(m); err != nil && first == nil {
			first = err
		}
	}
	if l.cache == nil {
		return first
	}
	return errors.Join(first, l.cache.logAll(ms, note))
}

func (l *cached) Read(ctx context.Context, o ReadOptions, emit func(Message) error) error {
	if l.cache == nil {
		return ErrNotReadable()
	}
	return l.cache.Read(ctx, o, emit)
}

func (l *cached) Close() error {
	var errs []error
	if l.to != nil {
		errs = append(errs, l.to.Close())
	}
	if l.cache != nil {
		errs = append(errs, l.cache.Close())
	}
	return errors.Join(errs...)
}

// openCached opens the log of a driver that sends.
func openCached(c Config, s settings, dial func() (sender, error)) (Logger, error) {
	l := &cached{name: c.Type}
	if !s.noCache {
		file := s
		l.cache = &fileLog{name: c.Type, path: filepath.Join(c.Dir, "container.log"), settings: file, codec: binaryCodec{}, readOnly: c.ReadOnly}
	}
	if c.ReadOnly {
		return l, nil
	}
	to, err := dial()
	if err != nil {
		return nil, err
	}
	l.to = to
	if l.cache != nil {
		if err := makeDir(c.Dir); err != nil {
			return nil, errors.Join(err, to.Close())
		}
		if err := l.cache.open(); err != nil {
			return nil, errors.Join(err, to.Close())
		}
	}
	if s.nonBlock {
		return newRing(l, s.buffer), nil
	}
	return l, nil
}

// parseCache reads the options of the file beside a driver that sends.
func (s *settings) parseCache(options map[string]string) error {
	s.maxFiles, s.maxSize, s.compress = 5, 20<<20, true
	var err error
	if v, ok := options["cache-disabled"]; ok {
		if s.noCache, err = strconv.ParseBool(v); err != nil {
			return invalid("invalid log opt cache-disabled: %v", err)
		}
	}
	if v, ok := options["cache-max-size"]; ok {
		if s.maxSize, err = units.FromHumanSize(v); err != nil || s.maxSize <= 0 {
			return invalid("invalid log opt cache-max-size: %q", v)
		}
	}
	if v, ok := options["cache-max-file"]; ok {
		if s.maxFiles, err = strconv.Atoi(v); err != nil || s.maxFiles < 1 {
			return invalid("invalid log opt cache-max-file: %q", v)
		}
	}
	if v, ok := options["cache-compress"]; ok {
		if s.compress, err = strconv.ParseBool(v); err != nil {
			return invalid("invalid log opt cache-compress: %v", err)
		}
	}
	if s.maxFiles == 1 {
		s.compress = false
	}
	return nil
}
