package attach

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/mesh"
)

// fate is what becomes of an attachment.
type fate int

const (
	keep fate = iota // as it is: somebody is about to use it, or to stop to
	show             // it is used: others find its container
	drop             // nobody uses it
)

// facts are what the fate depends on.
type facts struct {
	busy  bool       // a verb on the container is under way
	there bool       // the container is in the network
	has   netip.Addr // with this address
	given netip.Addr // by the attachment
}

func decide(f facts) fate {
	switch {
	case f.there && f.has == f.given:
		return show
	case f.busy:
		return keep
	}
	return drop
}

func containerOf(t *api.Task) string { return t.Spec.GetAttachment().ContainerID }

// assigned takes an attachment that a manager, or an earlier daemon, gave to this
// node. It may be repeated.
func (a *Attacher) assigned(ctx context.Context, t *api.Task) error {
	at := &attachment{task: t}
	places, err := mesh.Attachments(t)
	if err == nil && len(places) != 1 {
		err = errors.New("an attachment is not to one network")
	}
	if err == nil {
		at.place = Place{ID: places[0].ID, Name: places[0].Network, Addr: places[0].Addr}
		a.op.Lock()
		err = a.d.Mesh.Hold(ctx, t)
		a.op.Unlock()
	}
	if ctx.Err() != nil {
		return ctx.Err() // it is asked for again
	}
	at.err = err
	a.mu.Lock()
	if old := a.all[t.ID]; old != nil {
		at.given = old.given
	}
	a.all[t.ID] = at
	close(a.change)
	a.change = make(chan struct{})
	a.mu.Unlock()
	a.settle(ctx, containerOf(t))
	return err
}

// of are a container's attachments that are not being given back.
func (a *Attacher) of(container string) map[string]*attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]*attachment{}
	for id, at := range a.all {
		if containerOf(at.task) == container && !at.given {
			out[id] = at
		}
	}
	return out
}

// settle acts on what is true of a container's attachments.
func (a *Attacher) settle(ctx context.Context, container string) {
	if len(a.of(container)) == 0 {
		return // most containers have none, and wait for nobody's
	}
	a.op.Lock()
	defer a.op.Unlock()
	all := a.of(container)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		at := all[id]
		has, names, there := a.d.Networks.EndpointIn(at.place.ID, container)
		a.mu.Lock()
		f := decide(facts{busy: a.busy[container] > 0, there: there && at.err == nil, has: has, given: at.place.Addr})
		a.mu.Unlock()
		switch f {
		case keep:
		case show:
			if err := a.d.Mesh.Show(at.task, names, true); err != nil {
				a.d.Log.Warn("names of a container not told to the swarm", logkey.Container, container, logkey.Network, at.place.Name, logkey.Err, err)
			}
		case drop:
			if err := a.d.Mesh.Release(ctx, id); err != nil {
				a.d.Log.Warn("network of the swarm not taken down", logkey.Network, at.place.Name, logkey.Err, err)
			}
			a.giveBack(id) //nolint:contextcheck // it outlives the request
		}
	}
}

// giveBack tells a manager that an attachment is not used any more, as often as it takes.
func (a *Attacher) giveBack(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.all[id]; at != nil {
		at.given = true
	}
	if a.life.Err() != nil {
		return // the next start does it
	}
	a.jobs.Go(func() {
		for wait := detachFirst; ; wait = min(2*wait, detachMost) {
			err := a.detach(id)
			if err == nil {
				break
			}
			a.d.Log.Debug("address of a container not given back yet", logkey.Name, id, logkey.Err, err)
			if clock.Sleep(a.life, a.d.Clock, wait) != nil {
				return
			}
		}
		a.mu.Lock()
		delete(a.all, id)
		a.mu.Unlock()
	})
}

func (a *Attacher) detach(id string) error {
	ctx, cancel := context.WithTimeout(a.life, attachIn)
	defer cancel()
	m, err := a.manager(ctx)
	if errors.Is(err, ErrNoSwarm) {
		return nil // nothing to give it back to
	}
	if err != nil {
		return err
	}
	err = m.DetachNetwork(ctx, id)
	if c := status.Code(err); c == codes.NotFound || c == codes.PermissionDenied { // gone, or another node's
		return nil
	}
	return err
}

// evict takes an attachment's container out of its network.
func (a *Attacher) evict(ctx context.Context, at *attachment) error {
	container := containerOf(at.task)
	has, _, there := a.d.Networks.EndpointIn(at.place.ID, container)
	if there && has == at.place.Addr {
		if err := a.disconnect(ctx, at.place.ID, container); err != nil {
			return err
		}
	}
	a.settle(ctx, container)
	return nil
}

func (a *Attacher) disconnect(ctx context.Context, network, container string) error {
	a.d.Log.Info("container taken out of a network of the swarm", logkey.Container, container, logkey.Network, network)
	return a.containers.DisconnectNetwork(ctx, network, container, true)
}

// Evict takes all containers out of their networks, and gives their addresses back
// where a manager can be asked: the node is about to leave its swarm.
func (a *Attacher) Evict(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, evictIn)
	defer cancel()
	a.mu.Lock()
	a.leave()
	a.epoch, a.leave = context.WithCancel(a.life)
	all := maps.Clone(a.all)
	a.mu.Unlock()
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(all)) {
		errs = append(errs, a.evict(ctx, all[id]))
	}
	for {
		a.mu.Lock()
		left := len(a.all)
		a.mu.Unlock()
		if left == 0 || clock.Sleep(ctx, a.d.Clock, detachFirst/4) != nil {
			break // the managers free them with the node
		}
	}
	return errors.Join(errs...)
}

// Purge takes out whoever is left: the node is in no swarm any more.
func (a *Attacher) Purge(ctx context.Context) error {
	a.mu.Lock()
	a.all = map[string]*attachment{}
	a.mu.Unlock()
	var errs []error
	for network, containers := range a.d.Networks.InOverlays() {
		for _, c := range containers {
			errs = append(errs, a.disconnect(ctx, network, c))
		}
	}
	return errors.Join(errs...)
}
