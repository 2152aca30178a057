package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"holdfast.dev/holdfast/internal/stateful"
)

type request struct {
	State    bool             `json:",omitempty"`
	Promise  uint64           `json:",omitempty"`
	Lead     *stateful.Lead   `json:",omitempty"`
	Extend   *extension       `json:",omitempty"`
	Follow   *stateful.Follow `json:",omitempty"`
	Ack      *acknowledgement `json:",omitempty"`
	StepDown *stepDown        `json:",omitempty"`
	Hold     *stateful.Hold   `json:",omitempty"`
	Discard  uint64           `json:",omitempty"`
	Deadline time.Time        // of the request
}

type extension struct {
	Epoch       uint64
	Until, Stop time.Time
}

type acknowledgement struct {
	Epoch uint64
	Ack   stateful.Ack
}

type stepDown struct {
	Epoch uint64
	Clean bool
}

type reply struct {
	State stateful.State
	Error string `json:",omitempty"`
}

// maxMessage bounds what either side reads: a container may send anything.
const maxMessage = 1 << 20

// Client is a helper as its node's agent sees it.
type Client struct {
	path string
	name string
}

var _ stateful.Helper = (*Client)(nil)

// NewClient returns a client of the helper of a member that listens at path.
func NewClient(path, member string) *Client { return &Client{path: path, name: member} }

func (c *Client) call(ctx context.Context, r request) (st stateful.State, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return st, fmt.Errorf("reach the helper of %s: %w", c.name, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed one needs none
	defer stop()
	if left, ok := ctx.Deadline(); ok {
		r.Deadline = Now().Add(time.Until(left))
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return st, fmt.Errorf("ask the helper of %s: %w", c.name, err)
	}
	var out reply
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&out); err != nil {
		return st, fmt.Errorf("read the answer of the helper of %s: %w", c.name, err)
	}
	if out.Error != "" {
		return out.State, fmt.Errorf("%s: %s", c.name, out.Error)
	}
	if out.State.Member != c.name {
		return st, fmt.Errorf("the helper of %s says it is %q's", c.name, out.State.Member)
	}
	return out.State, nil
}

// State implements stateful.Helper.
func (c *Client) State(ctx context.Context) (stateful.State, error) {
	return c.call(ctx, request{State: true})
}

// Promise implements stateful.Helper.
func (c *Client) Promise(ctx context.Context, epoch uint64) (stateful.State, error) {
	return c.call(ctx, request{Promise: epoch})
}

// Lead implements stateful.Helper.
func (c *Client) Lead(ctx context.Context, o stateful.Lead) error {
	_, err := c.call(ctx, request{Lead: &o})
	return err
}

// Extend implements stateful.Helper.
func (c *Client) Extend(ctx context.Context, epoch uint64, until, stop time.Time) error {
	_, err := c.call(ctx, request{Extend: &extension{epoch, until, stop}})
	return err
}

// Follow implements stateful.Helper.
func (c *Client) Follow(ctx context.Context, f stateful.Follow) error {
	_, err := c.call(ctx, request{Follow: &f})
	return err
}

// Acknowledge implements stateful.Helper.
func (c *Client) Acknowledge(ctx context.Context, epoch uint64, a stateful.Ack) error {
	_, err := c.call(ctx, request{Ack: &acknowledgement{epoch, a}})
	return err
}

// Hold implements stateful.Helper.
func (c *Client) Hold(ctx context.Context, h stateful.Hold) error {
	_, err := c.call(ctx, request{Hold: &h})
	return err
}

// Discard implements stateful.Helper.
func (c *Client) Discard(ctx context.Context, epoch uint64) error {
	_, err := c.call(ctx, request{Discard: epoch})
	return err
}

// StepDown implements stateful.Helper.
func (c *Client) StepDown(ctx context.Context, epoch uint64, clean bool) (stateful.State, error) {
	return c.call(ctx, request{StepDown: &stepDown{epoch, clean}})
}

// Serve answers requests on l with h until ctx ends.
func Serve(ctx context.Context, l net.Listener, h stateful.Helper) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept then tells
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept requests: %w", err)
		}
		go answer(ctx, conn, h)
	}
}

// answer handles one request. A client that went away is nobody's loss: calls may
// be repeated.
func answer(ctx context.Context, conn net.Conn, h stateful.Helper) {
	defer func() { _ = conn.Close() }()
	var r request
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&r); err != nil {
		return
	}
	if !r.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Deadline.Sub(Now()))
		defer cancel()
	}
	st, err := handle(ctx, h, r)
	out := reply{State: st}
	if err != nil {
		out.Error = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(out)
}

func handle(ctx context.Context, h stateful.Helper, r request) (stateful.State, error) {
	var err error
	switch {
	case r.Promise > 0:
		return h.Promise(ctx, r.Promise)
	case r.StepDown != nil:
		return h.StepDown(ctx, r.StepDown.Epoch, r.StepDown.Clean)
	case r.Lead != nil:
		err = h.Lead(ctx, *r.Lead)
	case r.Extend != nil:
		err = h.Extend(ctx, r.Extend.Epoch, r.Extend.Until, r.Extend.Stop)
	case r.Follow != nil:
		err = h.Follow(ctx, *r.Follow)
	case r.Ack != nil:
		err = h.Acknowledge(ctx, r.Ack.Epoch, r.Ack.Ack)
	case r.Hold != nil:
		err = h.Hold(ctx, *r.Hold)
	case r.Discard > 0:
		err = h.Discard(ctx, r.Discard)
	case r.State:
	default:
		return stateful.State{}, errors.New("a request that this helper does not know")
	}
	if err != nil {
		return stateful.State{}, err
	}
	return h.State(ctx)
}
