package container

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// selection is a list request, read and looked up.
type selection struct {
	filter
	all, haveTask  bool
	wantTask       bool
	exited         []int
	before, since  string // IDs
	images         map[string]bool
	publish, expos map[string]bool
}

// List returns the containers that match, newest first.
func (s *Service) List(ctx context.Context, o ListOptions) ([]container.Summary, error) {
	sel, err := s.selectBy(ctx, o)
	if err != nil {
		return nil, err
	}
	recs := s.newestFirst()
	now := s.d.Clock.Now()
	names := imageNames{ctx: ctx, s: s, seen: map[string]string{}}
	linked := s.linkNames()
	out := make([]container.Summary, 0, len(recs))
	skipping := sel.before != ""
	for _, r := range recs {
		if skipping {
			skipping = r.ID != sel.before
			continue
		}
		if sel.since != "" && r.ID == sel.since {
			break
		}
		if o.Limit > 0 && len(out) == o.Limit {
			break
		}
		if !r.shown().running() && !sel.all && o.Limit <= 0 || !sel.matches(r) {
			continue
		}
		sum := s.summary(r, now)
		sum.Names = append(sum.Names, linked[r.ID]...)
		sum.Image = names.of(r)
		if o.Size {
			if sum.SizeRw, sum.SizeRootFs, err = s.d.Rootfs.Usage(ctx, r.ID); err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
		}
		out = append(out, sum)
	}
	return out, nil
}

// newestFirst are all records. There may be thousands, and a record is large: it
// is copied once, and what is sorted are pointers.
func (s *Service) newestFirst() []*Record {
	all := s.all()
	recs, order := make([]Record, len(all)), make([]*Record, len(all))
	for i, c := range all {
		recs[i] = c.record()
		order[i] = &recs[i]
	}
	slices.SortFunc(order, func(a, b *Record) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return order
}

// imageNames remembers, for one list, which image references still mean the
// image that the container was made from.
type imageNames struct {
	ctx  context.Context //nolint:containedctx // lives as long as one call of List
	s    *Service
	seen map[string]string // reference to image ID
}

func (n *imageNames) of(r *Record) string {
	ref := r.Config.Image
	if ref == "" || ref == r.ImageID {
		return ref
	}
	id, ok := n.seen[ref]
	if !ok {
		img, err := n.s.d.Images.Resolve(n.ctx, ref, nil)
		if err != nil && !errdefs.IsNotFound(err) {
			n.s.d.Log.Warn("image of container not resolved", logkey.Image, ref, logkey.Err, err)
		}
		id = img.ID
		n.seen[ref] = id
	}
	if id == r.ImageID {
		return ref
	}
	return r.ImageID
}

func (s *Service) selectBy(ctx context.Context, o ListOptions) (*selection, error) {
	f, err := newFilter(o.Filters, "ancestor", "annotation", "before", "exited", "id", "isolation", "label", "name",
		"status", "health", "since", "volume", "network", "is-task", "publish", "expose")
	if err != nil {
		return nil, err
	}
	sel := &selection{filter: f, all: o.All || f.has("status")}
	for _, v := range f.by["exited"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'exited=%s': %s", v, err)
		}
		sel.exited = append(sel.exited, n)
	}
	for _, v := range f.by["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %s", v, err)
		}
	}
	for _, v := range f.by["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, invalid("invalid filter 'health=%s': %s", v, err)
		}
	}
	if sel.wantTask, sel.haveTask, err = f.boolean("is-task"); err != nil {
		return nil, err
	}
	for key, to := range map[string]*string{"before": &sel.before, "since": &sel.since} {
		for _, v := range f.by[key] {
			c, err := s.lookup(v)
			if err != nil {
				return nil, err
			}
			*to = c.record().ID
		}
	}
	if f.has("ancestor") {
		sel.images = map[string]bool{}
		for _, v := range f.by["ancestor"] {
			ids, err := s.d.Images.Family(ctx, v)
			if err != nil {
				s.d.Log.Debug("image of filter not found", logkey.Image, v, logkey.Err, err)
				continue
			}
			for _, id := range ids {
				sel.images[id] = true
			}
		}
	}
	if sel.publish, err = f.ports("publish"); err != nil {
		return nil, err
	}
	sel.expos, err = f.ports("expose")
	return sel, err
}

func (sel *selection) matches(r *Record) bool {
	nameOK := !sel.has("name") || sel.match("name", "/"+r.Name) || sel.match("name", r.Name)
	idOK := !sel.has("id") || slices.ContainsFunc(sel.by["id"], func(p string) bool { return strings.HasPrefix(r.ID, p) })
	if !nameOK || !idOK || !sel.labels(r.Config.Labels) || !sel.annotations(r.HostConfig.Annotations) || (sel.haveTask && sel.wantTask) {
		return false
	}
	if sel.has("isolation") && !sel.exact("isolation", string(r.HostConfig.Isolation)) {
		return false
	}
	if len(sel.exited) > 0 && (r.shown().running() || r.StartedAt.IsZero() || !slices.Contains(sel.exited, r.ExitCode)) {
		return false
	}
	if !sel.exact("status", string(r.state())) || sel.has("health") && !sel.exact("health", string(healthOf(r).Status)) {
		return false
	}
	if sel.images != nil && !sel.images[r.ImageID] {
		return false
	}
	return sel.matchesVolume(r) && sel.matchesNetwork(r) && sel.matchesPort(r)
}

func (sel *selection) matchesVolume(r *Record) bool {
	return !sel.has("volume") || slices.ContainsFunc(r.Mounts, func(m Mount) bool {
		return slices.Contains(sel.by["volume"], m.Target) || slices.Contains(sel.by["volume"], first(m.Name, m.Source))
	})
}

func (sel *selection) matchesNetwork(r *Record) bool {
	if !sel.has("network") {
		return true
	}
	for name, ep := range endpoints(r) {
		for _, want := range sel.by["network"] {
			if name == want || (ep.NetworkID != "" && strings.HasPrefix(ep.NetworkID, want)) {
				return true
			}
		}
	}
	return false
}

func (sel *selection) matchesPort(r *Record) bool {
	if len(sel.publish)+len(sel.expos) == 0 {
		return true
	}
	return slices.ContainsFunc(portSummaries(r), func(p container.PortSummary) bool {
		return sel.publish[fmt.Sprintf("%d/%s", p.PublicPort, p.Type)] || sel.expos[fmt.Sprintf("%d/%s", p.PrivatePort, p.Type)]
	})
}

func healthOf(r *Record) *container.HealthSummary {
	if r.Health == nil {
		return &container.HealthSummary{Status: container.NoHealthcheck}
	}
	return &container.HealthSummary{Status: r.Health.Status, FailingStreak: r.Health.FailingStreak}
}

func (s *Service) summary(r *Record, now time.Time) container.Summary {
	sum := container.Summary{
		ID: r.ID, Names: []string{"/" + r.Name}, ImageID: r.ImageID, ImageManifestDescriptor: r.ImageManifest,
		Command: commandLine(r), Created: r.Created.Unix(), Ports: portSummaries(r), Labels: r.Config.Labels,
		State: r.state(), Status: status(r, now), Health: healthOf(r), Mounts: s.mountPoints(r),
	}
	sum.HostConfig.NetworkMode = string(r.HostConfig.NetworkMode)
	sum.HostConfig.Annotations = maps.Clone(r.HostConfig.Annotations)
	sum.NetworkSettings = &container.NetworkSettingsSummary{Networks: endpoints(r)}
	for _, ep := range sum.NetworkSettings.Networks {
		ep.Links, ep.Aliases, ep.DNSNames, ep.DriverOpts = nil, nil, nil, nil
	}
	return sum
}

func commandLine(r *Record) string {
	if len(r.Args) == 0 {
		return r.Path
	}
	words := []string{r.Path}
	for _, a := range r.Args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func portSummaries(r *Record) []container.PortSummary {
	out := []container.PortSummary{}
	if r.Sandbox == nil {
		return out
	}
	for p, bindings := range r.Sandbox.Ports {
		if len(bindings) == 0 {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			host, err := network.ParsePortRange(b.HostPort)
			if err != nil {
				continue // not bound to one
			}
			out = append(out, container.PortSummary{
				IP: b.HostIP, PrivatePort: p.Num(), PublicPort: host.Start(), Type: string(p.Proto()),
			})
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), cmp.Compare(a.PublicPort, b.PublicPort), a.IP.Compare(b.IP))
	})
	return out
}
