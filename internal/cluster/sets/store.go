package sets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/stateful"
)

// Kinds of our objects in SwarmKit's store. Names are unique over all kinds.
const (
	prefix    = "holdfast."
	kindLease = "holdfast.lease"
	kindSet   = "holdfast.set"
)

// errConflict is a compare-and-swap that lost.
var errConflict = errors.New("the record has changed meanwhile")

// store is the records, at the raft leader.
type store struct{ c api.ControlClient }

var _ stateful.Store = store{}

// all is everything of ours at one moment.
type all struct {
	leases map[string]*api.Resource // by node
	sets   map[string]*api.Resource // by service
}

func (s store) all(ctx context.Context) (all, error) {
	out := all{map[string]*api.Resource{}, map[string]*api.Resource{}}
	r, err := s.c.ListResources(ctx, &api.ListResourcesRequest{Filters: &api.ListResourcesRequest_Filters{NamePrefixes: []string{prefix}}})
	if err != nil {
		return out, err
	}
	for _, o := range r.Resources {
		key, ok := strings.CutPrefix(o.Annotations.Name, o.Kind+".")
		switch {
		case !ok:
		case o.Kind == kindLease:
			out.leases[key] = o
		case o.Kind == kindSet:
			out.sets[key] = o
		}
	}
	return out, nil
}

func decode[T any](o *api.Resource) (v T, err error) {
	if o.Payload == nil {
		return v, fmt.Errorf("%s is empty", o.Annotations.Name)
	}
	if err := json.Unmarshal(o.Payload.Value, &v); err != nil {
		return v, fmt.Errorf("read %s: %w", o.Annotations.Name, err)
	}
	return v, nil
}

func encode(kind string, v any) (*gogotypes.Any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &gogotypes.Any{TypeUrl: "holdfast.dev/" + kind, Value: b}, nil
}

// swap writes an object if it is still at version.
func (s store) swap(ctx context.Context, o *api.Resource, version uint64, v any) error {
	p, err := encode(o.Kind, v)
	if err != nil {
		return err
	}
	_, err = s.c.UpdateResource(ctx, &api.UpdateResourceRequest{ResourceID: o.ID, ResourceVersion: &api.Version{Index: version}, Payload: p})
	if err != nil && strings.Contains(err.Error(), "update out of sequence") {
		return errConflict
	}
	return err
}

// create makes an object, and the kind before the first.
func (s store) create(ctx context.Context, kind, key string, v any) error {
	p, err := encode(kind, v)
	if err != nil {
		return err
	}
	req := &api.CreateResourceRequest{Annotations: &api.Annotations{Name: kind + "." + key}, Kind: kind, Payload: p}
	_, err = s.c.CreateResource(ctx, req)
	if err != nil && strings.Contains(err.Error(), "is not registered") {
		ext := &api.CreateExtensionRequest{Annotations: &api.Annotations{Name: kind}, Description: "of Holdfast"}
		if _, xerr := s.c.CreateExtension(ctx, ext); xerr != nil && status.Code(xerr) != codes.AlreadyExists {
			return xerr
		}
		_, err = s.c.CreateResource(ctx, req)
	}
	if status.Code(err) == codes.AlreadyExists {
		return errConflict
	}
	return err
}

// swaps is how often a change is tried that others change too.
const swaps = 5

// change changes one object; f says whether there is something to change.
func change[T any](ctx context.Context, s store, find func(all) *api.Resource, f func(*T) (bool, error)) error {
	for range swaps {
		a, err := s.all(ctx)
		if err != nil {
			return err
		}
		o := find(a)
		if o == nil {
			return errors.New("there is no such record")
		}
		v, err := decode[T](o)
		if err != nil {
			return err
		}
		if ok, err := f(&v); !ok || err != nil {
			return err
		}
		if err := s.swap(ctx, o, o.Meta.Version.Index, v); !errors.Is(err, errConflict) {
			return err
		}
	}
	return errConflict
}

func (s store) changeSet(ctx context.Context, set string, f func(*stateful.Set) (bool, error)) error {
	return change(ctx, s, func(a all) *api.Resource { return a.sets[set] }, f)
}

// Snapshot implements stateful.Store.
func (s store) Snapshot(ctx context.Context) (stateful.Snapshot, error) {
	out := stateful.Snapshot{Sets: map[string]stateful.Versioned[stateful.Set]{}, Leases: map[string]stateful.Versioned[stateful.NodeLease]{}}
	a, err := s.all(ctx)
	if err != nil || len(a.sets) == 0 {
		return out, err
	}
	addrs, err := s.addrs(ctx)
	if err != nil {
		return out, err
	}
	for k, o := range a.sets {
		v, err := decode[stateful.Set](o)
		if err != nil {
			return out, err
		}
		out.Sets[k] = stateful.Versioned[stateful.Set]{Value: v, Version: o.Meta.Version.Index}
	}
	for k, o := range a.leases {
		l, err := decode[stateful.Lease](o)
		if err != nil {
			return out, err
		}
		out.Leases[k] = stateful.Versioned[stateful.NodeLease]{Value: stateful.NodeLease{Lease: l, Addr: addrs[k]}, Version: o.Meta.Version.Index}
	}
	return out, nil
}

// addrs are where nodes are reached.
func (s store) addrs(ctx context.Context) (map[string]string, error) {
	r, err := s.c.ListNodes(ctx, &api.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, n := range r.Nodes {
		out[n.ID] = n.Status.Addr
		if n.ManagerStatus != nil {
			if host, _, err := net.SplitHostPort(n.ManagerStatus.Addr); err == nil {
				out[n.ID] = host
			}
		}
	}
	return out, nil
}

// SwapSet implements stateful.Store.
func (s store) SwapSet(ctx context.Context, key string, v stateful.Set, version uint64) error {
	a, err := s.all(ctx)
	if err != nil {
		return err
	}
	if a.sets[key] == nil {
		return fmt.Errorf("set %s is gone", v.Name)
	}
	return s.swap(ctx, a.sets[key], version, v)
}

// Revoke implements stateful.Store.
func (s store) Revoke(ctx context.Context, node string, version uint64) error {
	a, err := s.all(ctx)
	if err != nil {
		return err
	}
	o := a.leases[node]
	if o == nil {
		return errors.New("the node has no lease")
	}
	l, err := decode[stateful.Lease](o)
	if err != nil {
		return err
	}
	return s.swap(ctx, o, version, l.Revoke())
}

// rejoin takes a node's lease anew.
func (s store) rejoin(ctx context.Context, node string) (uint64, error) {
	for range swaps {
		a, err := s.all(ctx)
		if err != nil {
			return 0, err
		}
		var l stateful.Lease
		if o := a.leases[node]; o != nil {
			if l, err = decode[stateful.Lease](o); err != nil {
				return 0, err
			}
			l = l.Rejoin()
			err = s.swap(ctx, o, o.Meta.Version.Index, l)
		} else {
			l = l.Rejoin()
			err = s.create(ctx, kindLease, node, l)
		}
		if err == nil {
			return l.Term, nil
		}
		if !errors.Is(err, errConflict) {
			return 0, err
		}
	}
	return 0, errConflict
}

// renew renews a node's lease and says what it may lead.
func (s store) renew(ctx context.Context, node string, term uint64) (stateful.Renewal, error) {
	var turn uint64
	over := false
	err := change(ctx, s, func(a all) *api.Resource { return a.leases[node] }, func(l *stateful.Lease) (bool, error) {
		next, ok := l.Renew(term)
		over = !ok
		*l, turn = next, next.Turn
		return ok, nil
	})
	if err != nil || over {
		return stateful.Renewal{Over: over}, err
	}
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return stateful.Renewal{}, err
	}
	// What answers must have the renewal: a raft leader that was deposed and does not
	// know it would grant what was given to another since.
	if l := snap.Leases[node].Value; len(snap.Sets) > 0 && (l.Term != term || l.Turn < turn) {
		return stateful.Renewal{}, errors.New("the store that answers does not have the renewal")
	}
	out := stateful.Renewal{Views: map[string]stateful.View{}}
	records := map[string]stateful.Record{}
	for key, v := range snap.Sets {
		records[key] = v.Value.Record
		here := false
		view := stateful.View{Set: v.Value, Addrs: map[string]string{}}
		for m, home := range v.Value.Homes {
			here = here || home == node
			view.Addrs[m] = snap.Leases[home].Value.Addr
		}
		view.Events = nil // of no use there
		if here {
			out.Views[key] = view
		}
	}
	out.Grants = stateful.Grants(node, term, records)
	return out, nil
}
