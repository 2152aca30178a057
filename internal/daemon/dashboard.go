package daemon

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/dash"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/usage"
)

// dashboard is the engine as the dashboard's pages need it.
type dashboard struct{ storageBackend }

var _ dash.Backend = dashboard{}

// Storage implements dash.Backend.
func (b dashboard) Storage(ctx context.Context) (dash.Storage, error) {
	d := b.d
	disk, err := diskOf(d.cfg.Root)
	if err != nil {
		return dash.Storage{}, err
	}
	s := dash.Storage{Root: d.cfg.Root, Total: disk.Total, Free: disk.Free}
	images, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return s, err
	}
	used := map[string]bool{}
	for _, u := range d.containers.ImageUsers() {
		used[u.ImageID] = true
	}
	for _, i := range images {
		s.Images = append(s.Images, dash.Image{ID: i.ID, Names: i.RepoTags, Used: used[i.ID], Parts: parts[i.ID]})
	}
	names, trash := d.containers.Names(), d.trashNames()
	for _, i := range d.ledger.Items() {
		t := dash.Thing{ID: i.Key.ID, Name: i.Key.ID, Bytes: i.Disk, InUse: i.Open, Aged: !i.Exact}
		if i.At.IsZero() {
			t.Bytes = -1
		}
		switch i.Key.Kind {
		case usage.Layer:
			t.Name = names[i.Key.ID]
			s.Containers = append(s.Containers, t)
		case usage.Volume:
			s.Volumes = append(s.Volumes, t)
		case usage.Snapshot:
			s.Snapshots = append(s.Snapshots, t)
		case usage.Trash:
			t.Name = trash[i.Key.ID]
			s.Trash = append(s.Trash, t)
		}
	}
	for _, things := range [][]dash.Thing{s.Containers, s.Volumes, s.Snapshots, s.Trash} {
		slices.SortFunc(things, func(a, b dash.Thing) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Name, b.Name))
		})
	}
	cache, err := d.buildUsage(ctx)
	if err != nil {
		return s, err
	}
	s.Cache = cache.TotalSize
	return s, nil
}

// History implements dash.Backend.
func (b dashboard) History(ctx context.Context) ([]dash.Point, error) {
	samples, err := b.d.recorder.History(ctx)
	out := make([]dash.Point, 0, len(samples))
	for _, s := range samples {
		if s.Totals != nil { // an earlier version had none
			out = append(out, dash.Point{At: s.At, Bytes: s.Totals})
		}
	}
	return out, err
}

// Changes implements dash.Backend.
func (b dashboard) Changes(ctx context.Context) <-chan struct{} {
	_, all := b.d.events.Subscribe(ctx, 0, func(m events.Message) bool {
		// Health checks come every few seconds and change no sizes.
		return !strings.HasPrefix(string(m.Action), "exec_")
	})
	out := make(chan struct{}, 1)
	go func() { // until the context ends the subscription
		defer close(out)
		for {
			select {
			case _, ok := <-all:
				if !ok {
					return
				}
			case <-b.d.ledger.Measured():
			}
			select {
			case out <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return out
}

// dashboardRoutes serves the pages beside the API.
type dashboardRoutes struct{ pages http.Handler }

// Routes implements route.Router.
func (r dashboardRoutes) Routes() []route.Route {
	pages := http.StripPrefix(strings.TrimSuffix(api.PathDashboard, "/"), r.pages)
	serve := func(w http.ResponseWriter, r *http.Request) error {
		pages.ServeHTTP(w, r)
		return nil
	}
	path := api.PathDashboard + "{page:.*}"
	return []route.Route{
		{Method: http.MethodGet, Path: path, Handler: serve},
		{Method: http.MethodPost, Path: path, Handler: serve},
	}
}
