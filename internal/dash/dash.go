package dash

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Backend is the engine as the pages need it.
type Backend interface {
	// Storage tells what is on the disk, without walking it.
	Storage(ctx context.Context) (Storage, error)
	// Prune plans and, unless it is a dry run, removes.
	Prune(ctx context.Context, r api.PruneRequest) (api.PruneReport, error)
	// History tells what each kind took, oldest first, now included; Top who grew over
	// the span, most first.
	History(ctx context.Context) ([]Point, error)
	Top(ctx context.Context, span time.Duration) ([]api.StorageGrowth, error)
	// Union finds a container by name or ID. errdefs.ErrNotFound.
	Union(ctx context.Context, container string) (Union, error)
	// Changes receives after something changed. It ends with the context.
	Changes(ctx context.Context) <-chan struct{}
}

//go:embed pages static
var files embed.FS

// Dash serves the pages. Paths are below "/", and links are relative, so that it
// can be served below any path that ends in a slash.
type Dash struct {
	b     Backend
	clock clock.Clock
	log   *slog.Logger
	pages *template.Template
	mux   *http.ServeMux
}

// New returns the dashboard of b.
func New(b Backend, c clock.Clock, log *slog.Logger) (*Dash, error) {
	pages, err := template.New("").Funcs(template.FuncMap{
		"size": size, "grew": grew, "left": func(of float64) float64 { return of - 8 },
		"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	}).ParseFS(files, "pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("read the dashboard's pages: %w", err)
	}
	static, err := fs.Sub(files, "static")
	if err != nil {
		return nil, err
	}
	d := &Dash{b: b, clock: c, log: log, pages: pages, mux: http.NewServeMux()}
	d.mux.HandleFunc("GET /{$}", d.storage)
	d.mux.HandleFunc("POST /prune", d.prune)
	d.mux.HandleFunc("GET /container/{id}", d.union)
	d.mux.HandleFunc("GET /changes", d.changes)
	d.mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static)))
	return d, nil
}

// ServeHTTP implements http.Handler.
func (d *Dash) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	d.mux.ServeHTTP(w, r)
}

// everything is what the plan on the page is about: what `system prune` takes,
// and the images and volumes that nobody uses.
func everything() []api.PruneStep {
	return []api.PruneStep{
		{Kind: api.PruneContainers},
		{Kind: api.PruneNetworks},
		{Kind: api.PruneImages, Filters: map[string][]string{"dangling": {"false"}}},
		{Kind: api.PruneCache},
		{Kind: api.PruneVolumes},
		{Kind: api.PruneSnapshots},
		{Kind: api.PruneTrash},
	}
}

// storagePage is what the page shows.
type storagePage struct {
	Storage
	Width, Height int
	Blocks        []block
	Used          int64 // by the engine
	Other         int64 // by others on the same file system
	Growth        *chart
	Top           []api.StorageGrowth
	Plan          []choice
	Done          *api.PruneReport
	Skipped       []api.PruneItem // chosen, and used meanwhile
}

// choice is a line of the plan that can be chosen.
type choice struct {
	api.PruneItem
	Ref    string
	Chosen bool
}

// safe says whether a line is chosen before anybody looked: what can be had again.
// What only exists here (what a container wrote, a volume) is for people to choose.
func safe(i api.PruneItem) bool {
	return i.Kind == api.PruneCache || i.Kind == api.PruneNetworks || i.Kind == api.PruneImages && i.Name == i.ID
}

func (d *Dash) storage(w http.ResponseWriter, r *http.Request) {
	page, err := d.look(r.Context())
	d.answer(w, r, "storage.html", page, err)
}

// unionPage is what the page of a container's file system shows.
type unionPage struct {
	Union
	Path   string // searched for
	At     string // the same without links on the way
	Any    bool   // a layer has it
	Layers []unionRow
}

type unionRow struct {
	UnionLayer
	Number int
	Share  int // of the largest layer, in hundredths
	Found  found
}

// union draws a container's layers and says which one a path comes from.
func (d *Dash) union(w http.ResponseWriter, r *http.Request) {
	u, err := d.b.Union(r.Context(), r.PathValue("id"))
	if errdefs.IsNotFound(err) {
		http.Error(w, "There is no such container.", http.StatusNotFound)
		return
	}
	page := &unionPage{Union: u, Path: r.URL.Query().Get("path")}
	var here []found
	if err == nil && page.Path != "" {
		here, page.At, err = search(u.Layers, page.Path)
	}
	largest := int64(1)
	for _, l := range u.Layers {
		largest = max(largest, l.Bytes)
	}
	for i, l := range u.Layers {
		row := unionRow{UnionLayer: l, Number: i + 1, Share: int(max(l.Bytes, 0) * 100 / largest)}
		if here != nil {
			row.Found = here[i]
			page.Any = page.Any || row.Found.What != Nothing
		}
		page.Layers = append(page.Layers, row)
	}
	d.answer(w, r, "container.html", page, err)
}

func (d *Dash) look(ctx context.Context) (*storagePage, error) {
	s, err := d.b.Storage(ctx)
	if err != nil {
		return nil, err
	}
	plan, err := d.b.Prune(ctx, api.PruneRequest{Steps: everything(), DryRun: true})
	if err != nil {
		return nil, err
	}
	p := &storagePage{Storage: s, Width: mapWidth, Height: mapHeight, Blocks: draw(s)}
	for _, b := range p.Blocks {
		p.Used += b.Bytes
	}
	p.Other = max(s.Total-s.Free-p.Used, 0)
	for _, i := range plan.Items {
		p.Plan = append(p.Plan, choice{PruneItem: i, Ref: i.Ref(), Chosen: safe(i)})
	}
	past, err := d.b.History(ctx)
	if err != nil {
		return nil, err
	}
	p.Growth = drawGrowth(past)
	if p.Top, err = d.b.Top(ctx, day); err != nil {
		return nil, err
	}
	p.Top = p.Top[:min(topGrown, len(p.Top))]
	return p, nil
}

const (
	day      = 24 * time.Hour
	topGrown = 10 // as many are shown
)

// maxForm bounds what a browser may send.
const maxForm = 1 << 20

// prune removes what was chosen of the plan that the page showed, as far as it is
// still unused.
func (d *Dash) prune(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	chosen := r.PostForm["item"]
	done := api.PruneReport{Items: []api.PruneItem{}}
	var err error
	if len(chosen) > 0 {
		done, err = d.b.Prune(r.Context(), api.PruneRequest{Steps: everything(), Only: chosen})
	}
	if err != nil {
		d.answer(w, r, "storage.html", nil, err)
		return
	}
	page, err := d.look(r.Context())
	if err == nil {
		page.Done, page.Skipped = &done, skipped(chosen, &done)
	}
	d.answer(w, r, "storage.html", page, err)
}

// skipped takes out of done what was not removed, and adds what was chosen and is
// not even planned any more.
func skipped(chosen []string, done *api.PruneReport) []api.PruneItem {
	var out []api.PruneItem
	for _, ref := range chosen {
		at := slices.IndexFunc(done.Items, func(i api.PruneItem) bool { return i.Ref() == ref })
		switch {
		case at < 0:
			kind, rest, _ := strings.Cut(ref, "/")
			id, name, _ := strings.Cut(rest, "/")
			out = append(out, api.PruneItem{Kind: kind, ID: id, Name: name})
		case !done.Items[at].Removed:
			out = append(out, done.Items[at])
		}
	}
	done.Items = slices.DeleteFunc(done.Items, func(i api.PruneItem) bool { return !i.Removed })
	return out
}

func (d *Dash) answer(w http.ResponseWriter, r *http.Request, name string, page any, err error) {
	var out bytes.Buffer
	if err == nil {
		err = d.pages.ExecuteTemplate(&out, name, page)
	}
	if err != nil {
		if r.Context().Err() == nil {
			d.log.Warn("page of the dashboard failed", logkey.Path, r.URL.Path, logkey.Err, err)
		}
		http.Error(w, "Holdfast could not make this page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if _, err := w.Write(out.Bytes()); err != nil {
		d.log.Debug("page of the dashboard not read", logkey.Err, err)
	}
}

// rest is how long changes are gathered before the page is told of them.
const rest = 500 * time.Millisecond

// changes is a stream of server-sent events, one for each time that something on
// the page may have changed.
func (d *Dash) changes(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	changed := d.b.Changes(ctx)
	for text := "retry: 2000\n\n"; ; text = "event: changed\ndata:\n\n" {
		if _, err := strings.NewReader(text).WriteTo(w); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case _, ok := <-changed:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
		if clock.Sleep(ctx, d.clock, rest) != nil {
			return
		}
	}
}
