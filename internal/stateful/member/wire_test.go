package member

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/stateful"
)

// recorder is a helper that remembers what it was asked.
type recorder struct {
	asked []any
	err   error
	block bool
}

func (r *recorder) note(v any) error { r.asked = append(r.asked, v); return r.err }

func (r *recorder) State(context.Context) (stateful.State, error) {
	return stateful.State{Member: "db-1", Phase: stateful.Resting}, nil
}

func (r *recorder) Promise(ctx context.Context, epoch uint64) (stateful.State, error) {
	if r.block {
		<-ctx.Done()
		return stateful.State{}, ctx.Err()
	}
	return stateful.State{Member: "db-1", Promised: epoch}, r.note(epoch)
}
func (r *recorder) Lead(_ context.Context, o stateful.Lead) error     { return r.note(o) }
func (r *recorder) Follow(_ context.Context, f stateful.Follow) error { return r.note(f) }
func (r *recorder) Hold(_ context.Context, h stateful.Hold) error     { return r.note(h) }
func (r *recorder) Discard(_ context.Context, epoch uint64) error     { return r.note(epoch + 100) }
func (r *recorder) Extend(_ context.Context, epoch uint64, until, stop time.Time) error {
	return r.note([]any{epoch, until.UnixNano(), stop.UnixNano()})
}

func (r *recorder) Acknowledge(_ context.Context, epoch uint64, a stateful.Ack) error {
	return r.note([]any{epoch, a})
}

func (r *recorder) StepDown(_ context.Context, epoch uint64, clean bool) (stateful.State, error) {
	return stateful.State{Member: "db-1"}, r.note([]any{epoch, clean})
}

func serve(t *testing.T, r *recorder) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", p)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = Serve(t.Context(), l, r) }() // it ends with the test
	return p
}

// What an agent asks is what the helper hears, moments to the nanosecond.
func TestWire(t *testing.T) {
	r := &recorder{}
	c := NewClient(serve(t, r), "db-1")
	ctx := t.Context()
	at := Now()
	lead := stateful.Lead{Epoch: 3, Until: at, Stop: at.Add(-time.Second), Ack: stateful.Ack{Members: []string{"db-2.x"}, Count: 1}, Secret: "s", First: true}
	follow := stateful.Follow{Epoch: 4, Host: "h", Port: 1, Chain: stateful.Chain{{Epoch: 1, Timeline: 2, Start: 3}}}
	if st, err := c.Promise(ctx, 7); err != nil || st.Promised != 7 {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := c.StepDown(ctx, 5, true); err != nil {
		t.Error(err)
	}
	err := errors.Join(c.Lead(ctx, lead), c.Follow(ctx, follow), c.Extend(ctx, 3, at, at.Add(-time.Second)), c.Acknowledge(ctx, 3, lead.Ack), c.Hold(ctx, stateful.Hold{Member: "db-1.x", Epoch: 3, For: time.Second}), c.Discard(ctx, 3))
	if err != nil {
		t.Error(err)
	}
	got, ok := r.asked[2].(stateful.Lead)
	if !ok || !got.Until.Equal(at) || !got.Stop.Equal(at.Add(-time.Second)) {
		t.Errorf("%+v", r.asked[2])
	}
	got.Until, got.Stop = lead.Until, lead.Stop
	want := []any{uint64(7), []any{uint64(5), true}, lead, follow, []any{uint64(3), at.UnixNano(), at.Add(-time.Second).UnixNano()}, []any{uint64(3), lead.Ack}, stateful.Hold{Member: "db-1.x", Epoch: 3, For: time.Second}, uint64(103)}
	r.asked[2] = got
	if !reflect.DeepEqual(r.asked, want) {
		t.Errorf("heard %+v", r.asked)
	}
}

func TestWireErrors(t *testing.T) {
	r := &recorder{err: errors.New("epoch 1 is over")}
	p := serve(t, r)
	if err := NewClient(p, "db-1").Lead(t.Context(), stateful.Lead{Epoch: 1}); err == nil || !strings.Contains(err.Error(), "db-1: epoch 1 is over") {
		t.Error(err)
	}
	if _, err := NewClient(p, "db-2").State(t.Context()); err == nil || !strings.Contains(err.Error(), "says it is") {
		t.Errorf("another member answers: %v", err)
	}
	if _, err := NewClient(filepath.Join(t.TempDir(), "none"), "db-1").State(t.Context()); err == nil {
		t.Error("nobody listens, and answers")
	}
	r.block = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient(p, "db-1").Promise(ctx, 1); err == nil {
		t.Error("it did not wait")
	}
}
