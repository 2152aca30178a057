package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"slices"

	"holdfast.dev/holdfast/internal/container/logs"
)

// logTime is RFC 3339 with all nine digits, so that lines stay aligned.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// Logs writes the selected part of a container's log.
func (s *Service) Logs(ctx context.Context, name string, o LogsOptions, stdout, stderr io.Writer) error {
	if !o.Stdout && !o.Stderr {
		return invalid("You must choose at least one stream")
	}
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	r := c.record()
	if r.Phase == Removing || r.Phase == Dead {
		return conflict("can not get logs from container which is dead or marked for removal")
	}
	if r.HostConfig.LogConfig.Type == logs.None {
		return logs.ErrNotReadable()
	}
	if o.Started != nil {
		if err := o.Started(); err != nil {
			return err
		}
	}
	err = s.readLog(ctx, c, logs.ReadOptions{
		Since: o.Since, Until: o.Until, Tail: o.Tail, Follow: o.Follow,
	}, func(m logs.Message) error {
		switch {
		case m.Stream == "stdout" && o.Stdout:
			_, err := stdout.Write(format(m, o))
			return err
		case m.Stream == "stderr" && o.Stderr:
			_, err := stderr.Write(format(m, o))
			return err
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil // who followed has seen enough
	}
	return err
}

// readLog reads the log of a run that goes on, or what is on disk.
func (s *Service) readLog(ctx context.Context, c *Container, o logs.ReadOptions, emit func(logs.Message) error) error {
	if l := c.logger(); l != nil {
		return l.Read(ctx, o, emit)
	}
	r := c.record()
	cfg := s.logConfig(&r)
	cfg.ReadOnly = true
	l, err := logs.Open(cfg)
	if err != nil {
		return err
	}
	o.Follow = false // there is nothing to come before the next start
	err = l.Read(ctx, o, emit)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // never started
	}
	return errors.Join(err, l.Close())
}

// format puts before a line what was asked for.
func format(m logs.Message, o LogsOptions) []byte {
	text := line(m)
	if !o.Timestamps && !o.Details {
		return text
	}
	var out []byte
	if o.Timestamps {
		out = append(m.Time.UTC().AppendFormat(out, logTime), ' ')
	}
	if o.Details {
		for i, k := range slices.Sorted(maps.Keys(m.Attrs)) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, url.QueryEscape(k)+"="+url.QueryEscape(m.Attrs[k])...)
		}
		out = append(out, ' ')
	}
	return append(out, text...)
}
