// Package process runs an engine of backups in a program of its own, one run per
// call: what the engine needs in memory is gone when its work is done, a fault of it
// costs that work and nothing else, and the daemon carries none of its libraries.
//
// The call is a line of JSON on standard input, so that no secret is on a command
// line. Standard input stays open while somebody waits: the program ends at once when
// it is closed, also by the death of the daemon. Replies are lines of JSON.
package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/fault"
)

type call struct {
	Verb    string              `json:"verb"`
	Access  backup.Access       `json:"access"`
	Save    *backup.SaveRequest `json:"save,omitempty"`
	ID      string              `json:"id,omitempty"`
	IDs     []string            `json:"ids,omitempty"`
	Dir     string              `json:"dir,omitempty"`
	Partial bool                `json:"partial,omitempty"`
}

type reply struct {
	Progress     *tree.Totals                   `json:"progress,omitempty"`
	Done         bool                           `json:"done,omitempty"`
	Made         bool                           `json:"made,omitempty"`
	Backups      []backup.Backup                `json:"backups,omitempty"`
	Verified     map[string]backup.Verification `json:"verified,omitempty"`
	Restored     *backup.Restored               `json:"restored,omitempty"`
	Verification *backup.Verification           `json:"verification,omitempty"`
	Error        string                         `json:"error,omitempty"`
	Class        string                         `json:"class,omitempty"`
}

func classes() map[string]error {
	return map[string]error{
		"not found": errdefs.ErrNotFound, "invalid": errdefs.ErrInvalidArgument, "denied": errdefs.ErrPermissionDenied,
		"full": errdefs.ErrResourceExhausted, "unavailable": errdefs.ErrUnavailable, "damaged": errdefs.ErrDataLoss,
		"not implemented": errdefs.ErrNotImplemented, "conflict": errdefs.ErrConflict,
	}
}

// progressEvery bounds how often progress is told.
const progressEvery = 200 * time.Millisecond

// Serve carries out the one call that in holds and writes the replies.
func Serve(ctx context.Context, e backup.Engine, in io.Reader, out io.Writer, now func() time.Time) error {
	dec := json.NewDecoder(in)
	var c call
	if err := dec.Decode(&c); err != nil {
		return fmt.Errorf("read the call: %w", err)
	}
	enc := json.NewEncoder(out)
	var told time.Time
	progress := func(t tree.Totals) {
		if n := now(); n.Sub(told) >= progressEvery {
			told = n
			_ = enc.Encode(reply{Progress: &t}) // if nobody reads, the end tells
		}
	}
	r, err := carryOut(ctx, e, c, progress)
	if err != nil {
		r = reply{Error: err.Error()}
		for name, class := range classes() {
			if errors.Is(err, class) {
				r.Class = name
			}
		}
	}
	r.Done = true
	return enc.Encode(r)
}

func carryOut(ctx context.Context, e backup.Engine, c call, progress func(tree.Totals)) (r reply, err error) {
	switch c.Verb {
	case "prepare":
		r.Made, err = e.Prepare(ctx, c.Access)
	case "list":
		r.Backups, err = e.List(ctx, c.Access)
		r.Verified = map[string]backup.Verification{}
		for _, b := range r.Backups {
			if b.Verified != nil {
				r.Verified[b.ID] = *b.Verified
			}
		}
	case "save":
		if c.Save == nil {
			return r, errors.New("nothing to save was named")
		}
		var b backup.Backup
		b, err = e.Save(ctx, c.Access, *c.Save, progress)
		r.Backups = []backup.Backup{b}
	case "restore":
		var got backup.Restored
		got, err = e.Restore(ctx, c.Access, c.ID, c.Dir, c.Partial, progress)
		r.Restored = &got
	case "verify":
		var v backup.Verification
		v, err = e.Verify(ctx, c.Access, c.ID, c.Dir, progress)
		r.Verification = &v
	case "remove":
		err = e.Remove(ctx, c.Access, c.IDs)
	case "maintain":
		err = e.Maintain(ctx, c.Access)
	default:
		err = fault.New(errdefs.ErrNotImplemented, "this program does not know the verb %q", c.Verb)
	}
	return r, err
}

// Engine implements backup.Engine by a program.
type Engine struct {
	Path string
	Args []string
	Env  []string // beside the daemon's own
}

var _ backup.Engine = (*Engine)(nil)

// endLimit is how long the program may take to end once nobody waits for it.
const endLimit = 5 * time.Second

// stderrLimit bounds what is kept of what the program says.
const stderrLimit = 4 << 10

func (e *Engine) run(ctx context.Context, c call, progress func(tree.Totals)) (last reply, err error) {
	b, err := json.Marshal(c)
	if err != nil {
		return last, err
	}
	cmd := exec.CommandContext(ctx, e.Path, e.Args...) //nolint:gosec // our own program
	cmd.Env = append(os.Environ(), e.Env...)
	cmd.WaitDelay = endLimit
	in, err := cmd.StdinPipe()
	if err != nil {
		return last, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return last, err
	}
	var said tail
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return last, fmt.Errorf("start the program for backups: %w", err)
	}
	_, werr := in.Write(append(b, '\n'))
	lines := bufio.NewReader(out)
	for werr == nil && !last.Done {
		line, rerr := lines.ReadBytes('\n')
		if rerr != nil {
			break
		}
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			werr = fmt.Errorf("an answer of the program for backups: %w", err)
			break
		}
		if r.Progress != nil && progress != nil {
			progress(*r.Progress)
		}
		last = r
	}
	// It ends when its input does. Nothing of it works on when this returns.
	_ = in.Close() // it may have ended already
	_, _ = io.Copy(io.Discard, out)
	end := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return last, ctx.Err()
	case last.Done && last.Error != "":
		if class, ok := classes()[last.Class]; ok {
			return last, fault.New(class, "%s", last.Error)
		}
		return last, errors.New(last.Error)
	case last.Done:
		return last, nil
	}
	return last, fmt.Errorf("the program for backups ended before its work did: %w", errors.Join(werr, end, said.err()))
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if n := len(t.b) - stderrLimit; n > 0 {
		t.b = t.b[n:]
	}
	return len(b), nil
}

func (t *tail) err() error {
	if s := strings.TrimSpace(string(bytes.ToValidUTF8(t.b, []byte("?")))); s != "" {
		return errors.New(s)
	}
	return nil
}

// Prepare implements backup.Engine.
func (e *Engine) Prepare(ctx context.Context, a backup.Access) (bool, error) {
	r, err := e.run(ctx, call{Verb: "prepare", Access: a}, nil)
	return r.Made, err
}

// List implements backup.Engine.
func (e *Engine) List(ctx context.Context, a backup.Access) ([]backup.Backup, error) {
	r, err := e.run(ctx, call{Verb: "list", Access: a}, nil)
	for i := range r.Backups {
		if v, ok := r.Verified[r.Backups[i].ID]; ok {
			r.Backups[i].Verified = &v
		}
	}
	return r.Backups, err
}

// Save implements backup.Engine.
func (e *Engine) Save(ctx context.Context, a backup.Access, s backup.SaveRequest, progress func(tree.Totals)) (backup.Backup, error) {
	r, err := e.run(ctx, call{Verb: "save", Access: a, Save: &s}, progress)
	if err == nil && len(r.Backups) != 1 {
		err = errors.New("the program for backups made none")
	}
	if err != nil {
		return backup.Backup{}, err
	}
	return r.Backups[0], nil
}

// Restore implements backup.Engine.
func (e *Engine) Restore(ctx context.Context, a backup.Access, id, dir string, partial bool, progress func(tree.Totals)) (backup.Restored, error) {
	r, err := e.run(ctx, call{Verb: "restore", Access: a, ID: id, Dir: dir, Partial: partial}, progress)
	if err != nil || r.Restored == nil {
		return backup.Restored{}, err
	}
	return *r.Restored, nil
}

// Verify implements backup.Engine.
func (e *Engine) Verify(ctx context.Context, a backup.Access, id, dir string, progress func(tree.Totals)) (backup.Verification, error) {
	r, err := e.run(ctx, call{Verb: "verify", Access: a, ID: id, Dir: dir}, progress)
	if err == nil && r.Verification == nil {
		err = errors.New("the program for backups verified nothing")
	}
	if err != nil {
		return backup.Verification{}, err
	}
	return *r.Verification, nil
}

// Remove implements backup.Engine.
func (e *Engine) Remove(ctx context.Context, a backup.Access, ids []string) error {
	_, err := e.run(ctx, call{Verb: "remove", Access: a, IDs: ids}, nil)
	return err
}

// Maintain implements backup.Engine.
func (e *Engine) Maintain(ctx context.Context, a backup.Access) error {
	_, err := e.run(ctx, call{Verb: "maintain", Access: a}, nil)
	return err
}
