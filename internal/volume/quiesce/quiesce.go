package quiesce

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/volume/database"
)

// Writer is a running container that may write to volumes.
type Writer struct {
	ID      string
	Name    string
	Volumes []string // those of the request
	Paused  bool     // by somebody else: it writes nothing
	Labels  map[string]string
	Facts   database.Facts
}

// Process is a program in a container. Its output is read by one goroutine.
type Process interface {
	io.Writer                                     // its standard input
	Line(ctx context.Context) (string, error)     // the next line of its output; io.EOF
	Wait(ctx context.Context) (code int, _ error) // ends its input and waits for its end
	Kill()                                        // and returns when it is gone
}

// Containers are the containers of this machine.
type Containers interface {
	// Writers are those that run and have one of the volumes, not read-only.
	Writers(volumes []string) []Writer
	// Run runs a program to its end; where the context ends, it is killed.
	Run(ctx context.Context, id, user string, cmd []string) (output string, code int, err error)
	// Open starts a program.
	Open(ctx context.Context, id, user string, cmd []string) (Process, error)
	// Freeze stops the processes of a container, Thaw has them go on: errdefs.ErrConflict
	// where they are not stopped, errdefs.ErrNotFound where there is no container.
	Freeze(ctx context.Context, id string) error
	Thaw(ctx context.Context, id string) error
}

// Record is what must be undone. It is written before anything is done.
type Record struct {
	ID      string
	Begun   time.Time
	Freezes []string // containers
	Posts   []Post
}

// Post is a command that must run.
type Post struct {
	Container string
	Name      string // the container's
	User      string
	Command   string
	Timeout   time.Duration
}

// Records keeps records durably. Put and Delete are on disk when they return.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	All() ([]*Record, error)
}

// Deps are the parts a Conductor works with; all are required.
type Deps struct {
	Clock      clock.Clock
	Random     io.Reader
	Log        *slog.Logger
	Records    Records
	Containers Containers
}

// Conductor quietens containers.
type Conductor struct{ d Deps }

// New returns a Conductor.
func New(d Deps) *Conductor { return &Conductor{d} }

// Request says what shall be quiet.
type Request struct {
	Volumes []string
	Hooks   bool // tell the applications; else they are only frozen
	Try     bool // a hook that fails or hangs is done without
	Freeze  bool // nothing must be written until Resume
}

// Quiet is until Resume, which must be called once.
type Quiet struct {
	// Application tells of volumes to which only those write who were told.
	Application map[string]bool
	// Hooks names, by volume, what was done to those who write to it.
	Hooks map[string]string
	// Frozen says that all who write to the volumes are frozen.
	Frozen bool
	// Failed are the hooks that were done without.
	Failed error

	c       *Conductor
	rec     Record
	held    []*held
	since   time.Time // when the first writer had to wait; zero: none has
	resumed bool
}

// held is a hook that is at work.
type held struct {
	w Writer
	h Hook
	p Process // of a session
}

// Outcome is what a Resume found.
type Outcome struct {
	Paused time.Duration // how long who writes had to wait
	Broken error         // somebody went on before: what was read meanwhile is not what it should be
	Post   error         // hooks that could not be ended as they should
}

// Quiesce returns when the writers are quiet, or has them go on and returns an error.
func (c *Conductor) Quiesce(ctx context.Context, r Request) (_ *Quiet, err error) {
	writers := c.d.Containers.Writers(r.Volumes)
	slices.SortFunc(writers, func(a, b Writer) int { return strings.Compare(a.Name, b.Name) })
	q := &Quiet{c: c, Application: map[string]bool{}, Hooks: map[string]string{}, Frozen: r.Freeze}
	hooks, err := q.plan(writers, r)
	if err != nil {
		return nil, err
	}
	var id [6]byte
	if _, err := io.ReadFull(c.d.Random, id[:]); err != nil {
		return nil, fmt.Errorf("make a name for the quiet time: %w", err)
	}
	q.rec.ID, q.rec.Begun = hex.EncodeToString(id[:]), c.d.Clock.Now().UTC()
	if err := c.d.Records.Put(q.rec.ID, &q.rec); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			q.Resume(ctx) // what it has to say is on the log
		}
	}()
	if err := failpoint.Hit("quiesce.afterIntent"); err != nil {
		return nil, err
	}
	for i, w := range writers {
		if hooks[i] == nil {
			continue
		}
		if err := q.hold(ctx, w, *hooks[i]); err != nil {
			err = fault.Wrap(errdefs.ErrConflict, err, "hook %s of container %s", hooks[i].Name, w.Name)
			if !r.Try {
				return nil, err
			}
			c.d.Log.Warn("quiesce hook failed", logkey.Container, w.ID, logkey.Name, hooks[i].Name, logkey.Err, err)
			q.Failed = errors.Join(q.Failed, err)
			for _, v := range w.Volumes {
				q.Application[v] = false
			}
			continue
		}
		q.note(w, hooks[i].Name)
	}
	if err := failpoint.Hit("quiesce.afterHooks"); err != nil {
		return nil, err
	}
	for _, id := range q.rec.Freezes {
		q.waits()
		if err := c.d.Containers.Freeze(ctx, id); err != nil {
			return nil, fmt.Errorf("quiesce: %w", err)
		}
	}
	return q, failpoint.Hit("quiesce.afterFreeze")
}

// plan says who is told and who is frozen, by writer, and writes down what will have
// to be undone.
func (q *Quiet) plan(writers []Writer, r Request) ([]*Hook, error) {
	for _, v := range r.Volumes {
		q.Application[v] = r.Hooks
	}
	hooks := make([]*Hook, len(writers))
	for i, w := range writers {
		if r.Freeze && !w.Paused {
			q.rec.Freezes = append(q.rec.Freezes, w.ID)
			q.note(w, "freeze")
		}
		if !r.Hooks {
			continue
		}
		h, by, err := treat(w)
		if err != nil {
			return nil, err
		}
		switch by {
		case byHook:
			hooks[i] = &h
			if h.Shell == "" && h.Post != "" {
				q.rec.Posts = append(q.rec.Posts, Post{Container: w.ID, Name: w.Name, User: h.User, Command: h.Post, Timeout: h.Timeout})
			}
		case byFreeze:
			for _, v := range w.Volumes {
				q.Application[v] = false
			}
		case byNothing:
		}
	}
	return hooks, nil
}

// note remembers what was done to who writes to volumes.
func (q *Quiet) note(w Writer, what string) {
	for _, v := range w.Volumes {
		names := strings.Split(q.Hooks[v], "+")
		if !slices.Contains(names, what) {
			names = slices.DeleteFunc(append(names, what), func(s string) bool { return s == "" })
			slices.Sort(names)
			q.Hooks[v] = strings.Join(names, "+")
		}
	}
}

// waits notes that somebody has to wait from now on.
func (q *Quiet) waits() {
	if q.since.IsZero() {
		q.since = q.c.d.Clock.Now()
	}
}

// hold has an application be quiet.
func (q *Quiet) hold(ctx context.Context, w Writer, h Hook) error {
	if w.Paused {
		return fault.New(errdefs.ErrConflict, "it is paused, and nothing can be told it")
	}
	if h.Blocks {
		q.waits()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fault.New(errdefs.ErrUnavailable, "it was not done after %s", h.Timeout))
	defer cancel()
	if h.Shell == "" {
		return q.c.command(ctx, w.ID, h.User, h.Pre)
	}
	p, err := q.c.d.Containers.Open(ctx, w.ID, h.User, []string{"sh", "-c", h.Shell})
	if err != nil {
		return err
	}
	if err := converse(ctx, p, h.Before, readyMark); err != nil {
		p.Kill()
		return err
	}
	q.held = append(q.held, &held{w: w, h: h, p: p})
	return nil
}

// converse sends a session something and waits for the line that says that it is done.
func converse(ctx context.Context, p Process, say, until string) error {
	// A program that does not read must not hold us: the lines tell what becomes of it.
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(p, say)
		sent <- err
	}()
	var heard []string
	for {
		line, err := p.Line(ctx)
		switch {
		case err == nil && strings.TrimSpace(line) == until:
			return nil
		case err == nil:
			if heard = append(heard, line); len(heard) > 5 {
				heard = heard[1:]
			}
			continue
		case ctx.Err() != nil:
			return told(context.Cause(ctx), heard)
		case !errors.Is(err, io.EOF):
			return told(err, heard)
		}
		code, err := p.Wait(ctx)
		if err != nil {
			return told(err, heard)
		}
		return told(fault.New(errdefs.ErrFailedPrecondition, "it ended with exit code %d", code), heard)
	}
}

// told adds what a program had to say.
func told(err error, heard []string) error {
	text := strings.TrimSpace(strings.Join(heard, "; "))
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

// command runs a shell command of a label; an empty one is done.
func (c *Conductor) command(ctx context.Context, id, user, command string) error {
	if command == "" {
		return nil
	}
	out, code, err := c.d.Containers.Run(ctx, id, user, []string{"sh", "-c", command})
	switch {
	case err != nil && ctx.Err() != nil:
		return told(context.Cause(ctx), []string{out})
	case err != nil:
		return told(err, []string{out})
	case code != 0:
		return told(fault.New(errdefs.ErrFailedPrecondition, "it ended with exit code %d", code), []string{out})
	}
	return nil
}

// thawLimit bounds how long one container's processes take to go on.
const thawLimit = 30 * time.Second

// Resume has all of them go on, whatever became of the request.
func (q *Quiet) Resume(ctx context.Context) (o Outcome) {
	if q.resumed {
		return o
	}
	q.resumed = true
	ctx = context.WithoutCancel(ctx)
	c := q.c
	for _, id := range slices.Backward(q.rec.Freezes) {
		if err := c.thaw(ctx, id); err != nil {
			o.Broken = errors.Join(o.Broken, err)
		}
	}
	for _, h := range slices.Backward(q.held) {
		if err := h.release(ctx); err != nil {
			err = fmt.Errorf("hook %s of container %s did not last: %w", h.h.Name, h.w.Name, err)
			o.Broken = errors.Join(o.Broken, err)
		}
	}
	o.Post = c.posts(ctx, q.rec.Posts)
	if !q.since.IsZero() {
		o.Paused = c.d.Clock.Now().Sub(q.since)
	}
	if err := c.d.Records.Delete(q.rec.ID); err != nil {
		c.d.Log.Warn("record of a quiet time stays until the next start", logkey.Err, err)
	}
	return o
}

func (c *Conductor) thaw(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, thawLimit)
	defer cancel()
	err := c.d.Containers.Thaw(ctx, id)
	if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
		c.d.Log.Error("container may still be paused", logkey.Container, id, logkey.Err, err)
	}
	return err
}

// release ends a session. An error says that it was not held until now.
func (h *held) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.h.Timeout, fault.New(errdefs.ErrUnavailable, "it was not done after %s", h.h.Timeout))
	defer cancel()
	if err := converse(ctx, h.p, h.h.After, doneMark); err != nil {
		h.p.Kill()
		return err
	}
	if _, err := h.p.Wait(ctx); err != nil {
		h.p.Kill() // it has said that it is done
	}
	return nil
}

// posts runs the commands, each whatever became of the others.
func (c *Conductor) posts(ctx context.Context, all []Post) error {
	var errs []error
	for _, p := range slices.Backward(all) {
		ctx, cancel := context.WithTimeoutCause(ctx, p.Timeout, fault.New(errdefs.ErrUnavailable, "it was not done after %s", p.Timeout))
		if err := c.command(ctx, p.Container, p.User, p.Command); err != nil {
			err = fmt.Errorf("label %s of container %s: %w", LabelPost, p.Name, err)
			c.d.Log.Error("application may not go on", logkey.Container, p.Container, logkey.Err, err)
			errs = append(errs, err)
		}
		cancel()
	}
	return errors.Join(errs...)
}

// Settle has those go on whom an earlier daemon left quiet. Containers were restored.
func (c *Conductor) Settle(ctx context.Context) error {
	all, err := c.d.Records.All()
	if err != nil {
		return fmt.Errorf("read records of quiet times: %w", err)
	}
	for _, r := range all { // these first: they are quick, and nothing runs in them
		for _, id := range r.Freezes {
			if err := c.thaw(ctx, id); err == nil {
				c.d.Log.Warn("container goes on", logkey.Container, id, logkey.Why, "the daemon ended while it was paused for a snapshot")
			}
		}
	}
	for _, r := range all {
		_ = c.posts(ctx, r.Posts) // it has logged what went wrong, and again it would not go better
		if ctx.Err() != nil {
			return nil
		}
		if err := c.d.Records.Delete(r.ID); err != nil {
			return err
		}
	}
	return nil
}
