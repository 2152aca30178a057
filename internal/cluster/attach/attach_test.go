package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/clock"
)

func TestDecide(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.1.3"), netip.MustParseAddr("10.0.1.4")
	for name, tc := range map[string]struct {
		in   facts
		want fate
	}{
		"in use":                               {facts{there: true, has: a, given: a}, show},
		"in use, and being renamed":            {facts{busy: true, there: true, has: a, given: a}, show},
		"about to be used":                     {facts{busy: true, given: a}, keep},
		"the container has another one by now": {facts{there: true, has: b, given: a}, drop},
		"another one, with a verb under way":   {facts{busy: true, there: true, has: b, given: a}, keep},
		"the container is gone":                {facts{given: a}, drop},
	} {
		if got := decide(tc.in); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// world is a swarm of one manager, which assigns what it is asked for, and this
// node's networks and containers.
type world struct {
	t *testing.T
	a *Attacher

	mu    sync.Mutex
	n     int
	tasks map[string]*api.Task  // at the manager
	in    map[string]netip.Addr // containers in the network
	shown map[string]string     // names by task
	holds map[string]bool
	fail  error // what the manager says
	lost  bool  // what it assigns does not come here
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, tasks: map[string]*api.Task{}, in: map[string]netip.Addr{}, shown: map[string]string{}, holds: map[string]bool{}}
	w.restart()
	t.Cleanup(func() { _ = w.a.Close(context.Background()) })
	return w
}

// restart is a new daemon, to which SwarmKit assigns what there is.
func (w *world) restart() {
	if w.a != nil {
		_ = w.a.Close(w.t.Context())
	}
	w.mu.Lock()
	w.shown, w.holds = map[string]string{}, map[string]bool{}
	w.mu.Unlock()
	w.a = New(Deps{Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Mesh: w, Networks: w})
	w.a.Serve(w)
	w.a.Open(func(context.Context) (Allocator, error) { return w, nil })
}

func (w *world) AttachNetwork(_ context.Context, container, network string, addrs []string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return "", w.fail
	}
	w.n++
	addr := fmt.Sprintf("10.0.1.%d/24", w.n+1)
	if len(addrs) > 0 {
		addr = addrs[0] + "/24"
	}
	task := &api.Task{
		ID:       fmt.Sprint("task", w.n),
		Spec:     api.TaskSpec{Runtime: &api.TaskSpec_Attachment{Attachment: &api.NetworkAttachmentSpec{ContainerID: container}}},
		Networks: []*api.NetworkAttachment{{Network: &api.Network{ID: network}, Addresses: []string{addr}}},
	}
	w.tasks[task.ID] = task
	if !w.lost {
		go func() { _ = w.a.Controller(task).Prepare(w.t.Context()) }()
	}
	return task.ID, nil
}

func (w *world) DetachNetwork(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	delete(w.tasks, id)
	return nil
}

func (w *world) Hold(_ context.Context, t *api.Task) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holds[t.ID] = true
	return nil
}

func (w *world) Show(t *api.Task, own []string, _ bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown[t.ID] = strings.Join(own, " ")
	return nil
}

func (w *world) Release(_ context.Context, task string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.shown, task)
	delete(w.holds, task)
	return nil
}

func (w *world) EndpointIn(_, container string) (netip.Addr, []string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.in[container]
	return a, []string{container}, ok
}

func (w *world) InOverlays() map[string][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string][]string{}
	for c := range w.in {
		out["net"] = append(out["net"], c)
	}
	return out
}

func (w *world) DisconnectNetwork(ctx context.Context, _, container string, _ bool) error {
	w.leave(ctx, container)
	return nil
}

// join is a container that starts in the network; joined tells whether it comes
// to be in it, once it has an address.
func (w *world) join(container string, joined bool) (Place, error) {
	ctx := w.t.Context()
	defer w.a.Begin(container)(ctx)
	p, err := w.a.Attach(ctx, container, "net", netip.Addr{})
	if err == nil && joined {
		w.mu.Lock()
		w.in[container] = p.Addr
		w.mu.Unlock()
	}
	return p, err
}

func (w *world) leave(ctx context.Context, container string) {
	defer w.a.Begin(container)(ctx)
	w.mu.Lock()
	delete(w.in, container)
	w.mu.Unlock()
}

// eventually waits for what the manager keeps, what is held here, and which names
// others find.
func (w *world) eventually(what string, tasks, holds int, shown ...string) {
	w.t.Helper()
	var got string
	want := fmt.Sprintf("%d tasks, %d held, shown %v", tasks, holds, shown)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		w.mu.Lock()
		var names []string
		for _, n := range w.shown {
			names = append(names, n)
		}
		got = fmt.Sprintf("%d tasks, %d held, shown %v", len(w.tasks), len(w.holds), names)
		w.mu.Unlock()
		if got == want {
			return
		}
	}
	w.t.Errorf("%s: %s, want %s", what, got, want)
}

func (w *world) says(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func TestContainersComeAndGo(t *testing.T) {
	w := newWorld(t)
	p, err := w.join("c", true)
	if err != nil || p.Addr != netip.MustParseAddr("10.0.1.2") || p.ID != "net" {
		t.Fatalf("given %+v, %v", p, err)
	}
	w.eventually("in", 1, 1, "c")
	if _, err := w.join("broken", false); err != nil {
		t.Fatal(err)
	}
	w.eventually("one that did not get to start", 1, 1, "c")
	w.restart()
	for _, task := range w.tasks {
		go func() { _ = w.a.Controller(task).Wait(t.Context()) }()
	}
	w.eventually("after a restart", 1, 1, "c")
	// No manager can be asked: it is given back when one can.
	w.says(status.Error(codes.Unavailable, "no manager"))
	w.leave(t.Context(), "c")
	w.eventually("out, with no manager", 1, 0)
	if _, err := w.join("d", true); !errdefs.IsUnavailable(err) {
		t.Errorf("with no manager: %v", err)
	}
	w.says(nil)
	w.eventually("out", 0, 0)
}

func TestADaemonDiesInBetween(t *testing.T) {
	w := newWorld(t)
	if _, err := w.join("c", true); err != nil {
		t.Fatal(err)
	}
	w.eventually("in", 1, 1, "c")
	var old *api.Task
	for _, task := range w.tasks {
		old = task
	}
	_ = w.a.Close(t.Context())
	w.mu.Lock()
	delete(w.in, "c") // it was stopped, and nobody could tell the manager
	w.mu.Unlock()
	w.restart()
	if err := w.a.Controller(old).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually("after the restart", 0, 0)
}

func TestTheManagerTakesItBack(t *testing.T) {
	w := newWorld(t)
	if _, err := w.join("c", true); err != nil {
		t.Fatal(err)
	}
	for _, task := range w.tasks {
		if err := w.a.Controller(task).Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if len(w.InOverlays()) != 0 {
		t.Error("the container still has an address that may be given to another")
	}
	w.eventually("given back", 0, 0)
}

func TestLeaving(t *testing.T) {
	w := newWorld(t)
	for _, c := range []string{"c", "d"} {
		if _, err := w.join(c, true); err != nil {
			t.Fatal(err)
		}
	}
	// One that waits for its address does not hold the leave up.
	w.lost = true
	waiting := make(chan error, 1)
	go func() {
		_, err := w.join("e", true)
		waiting <- err
	}()
	w.eventuallyAsked(3)
	if err := w.a.Evict(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errdefs.IsUnavailable(err) {
		t.Errorf("who waited is told %v", err)
	}
	w.eventually("out", 0, 0)
}

func (w *world) eventuallyAsked(n int) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		w.mu.Lock()
		got := w.n
		w.mu.Unlock()
		if got == n {
			return
		}
	}
	w.t.Fatalf("not asked %d times", n)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		says  error
		class func(error) bool
		text  string
	}{
		{status.Error(codes.PermissionDenied, "network net not manually attachable"), errdefs.IsPermissionDenied, "Could not attach to network net: rpc error: code = PermissionDenied desc = network net not manually attachable"},
		{status.Error(codes.NotFound, "network net not found"), errdefs.IsNotFound, "Could not attach to network net: rpc error: code = NotFound desc = network net not found"},
		{errors.New("gone"), errdefs.IsUnavailable, "Could not attach to network net: gone"},
	} {
		w.says(tc.says)
		if _, err := w.join("c", true); !tc.class(err) || err.Error() != tc.text {
			t.Errorf("%v: %v", tc.says, err)
		}
	}
	w.eventually("nothing", 0, 0)
}
