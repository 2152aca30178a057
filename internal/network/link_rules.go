package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// openTo are the rules for the links of containers: on the default network,
// where it keeps containers apart, a link opens the other's exposed ports.
// Elsewhere links are but names. mu is held.
func (s *Service) openTo() []LinkRule {
	var out []LinkRule
	for _, n := range s.nets {
		if n.apart() && n.rec.Predefined {
			for _, sb := range s.sandboxes {
				out = append(out, n.linkRules(sb, s.sandboxes)...)
			}
		}
	}
	slices.SortFunc(out, compareLinks)
	return slices.Compact(out)
}

// apart tells whether the network's containers don't talk to each other.
func (n *netw) apart() bool {
	return n.rec.Driver == DriverBridge && !optBool(n.rec.Options, optICC, true)
}

func (n *netw) linkRules(sb *sandbox, all map[string]*sandbox) []LinkRule {
	from := n.endpoints[sb.req.Container]
	if from == nil {
		return nil
	}
	var out []LinkRule
	for _, id := range sb.req.Links {
		to, other := n.endpoints[id], all[id]
		if to == nil || other == nil {
			continue
		}
		for _, a := range from.addrs() {
			for _, b := range to.addrs() {
				if a.Is6() != b.Is6() {
					continue
				}
				for p := range other.req.Exposed {
					if proto := string(p.Proto()); proto == "tcp" || proto == "udp" {
						out = append(out, LinkRule{Proto: proto, From: a, To: netip.AddrPortFrom(b, p.Num())})
					}
				}
			}
		}
	}
	return out
}

func compareLinks(a, b LinkRule) int {
	return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To), cmp.Compare(a.Proto, b.Proto))
}

// changeOf is what turns one sorted list into another.
func changeOf(have, want []LinkRule) (add, del []LinkRule) {
	missing := func(in []LinkRule) func(LinkRule) bool {
		return func(r LinkRule) bool {
			_, found := slices.BinarySearchFunc(in, r, compareLinks)
			return found
		}
	}
	return slices.DeleteFunc(slices.Clone(want), missing(have)), slices.DeleteFunc(slices.Clone(have), missing(want))
}

// relink makes the firewall follow the links after a container came, went or
// got other links. op of the container may be held.
func (s *Service) relink(ctx context.Context) error {
	if !s.linked.Load() {
		return nil
	}
	s.fw.Lock()
	defer s.fw.Unlock()
	s.mu.Lock()
	want := s.openTo()
	s.mu.Unlock()
	add, del := changeOf(s.opened, want)
	if len(add)+len(del) == 0 {
		return nil
	}
	s.opened = want
	err := s.d.Firewall.RemoveLinks(ctx, del)
	if err == nil {
		err = s.d.Firewall.AddLinks(ctx, add)
	}
	if err == nil {
		return nil
	}
	if e := s.d.Firewall.Sync(ctx, s.rulesLocked()); e != nil {
		return fmt.Errorf("change firewall rules: %w", errors.Join(err, e))
	}
	return nil
}

// Relink gives a joined container other links.
func (s *Service) Relink(ctx context.Context, id string, links []string) error {
	sb, err := s.lookup(id)
	if err != nil {
		return err
	}
	defer sb.op.Unlock()
	s.mu.Lock()
	sb.req.Links = slices.Clone(links)
	s.mu.Unlock()
	if len(links) > 0 {
		s.linked.Store(true)
	}
	return s.relink(context.WithoutCancel(ctx))
}

// checkLinks refuses links that could not be kept: where the kernel doesn't show
// packets between containers to the firewall, a network that keeps containers
// apart does so without exception. mu is held.
func (s *Service) checkLinks(sb *sandbox) error {
	if len(sb.req.Links) == 0 {
		return nil
	}
	for _, e := range sb.eps {
		if e.net.rec.Predefined && e.net.apart() && !s.d.Link.Filters() {
			return fault.New(errdefs.ErrFailedPrecondition, "links on network %s, which keeps containers apart (icc=false), need the kernel module br_netfilter", e.net.rec.Name)
		}
	}
	return nil
}
