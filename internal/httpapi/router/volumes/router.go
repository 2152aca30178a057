package volumes

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockervolume "github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/volume"
)

// Backend is the volume domain as this router needs it.
type Backend interface {
	About(ctx context.Context, name string) (volume.About, error)
	Snapshots(ctx context.Context, name string) ([]volume.SnapshotOf, error)
	SnapshotInfo(ctx context.Context, name, snapshot string) (volume.SnapshotOf, int64, error)
	Snapshot(ctx context.Context, o volume.SnapshotOptions) (volume.Snapshot, volume.Made, error)
	SnapshotGroup(ctx context.Context, o volume.GroupOptions) ([]volume.Taken, error)
	RemoveSnapshot(ctx context.Context, name, snapshot string) error
	PruneSnapshots(ctx context.Context, p volume.SnapshotPolicy) ([]volume.SnapshotOf, error)
	Rollback(ctx context.Context, name, snapshot, keep string) (volume.Snapshot, volume.Made, error)
	Clone(ctx context.Context, o volume.CloneOptions) (dockervolume.Volume, volume.Made, error)
	Rename(ctx context.Context, name, to string) error
	Resize(ctx context.Context, name string, bytes int64) error
	InTrash() []volume.Trashed
	Undelete(ctx context.Context, idOrName, as string) (dockervolume.Volume, error)
	Purge(ctx context.Context, idOrName string) error
	EmptyTrash(ctx context.Context) ([]volume.Trashed, error)
	Move(ctx context.Context, o volume.MoveOptions) (volume.Made, error)
	Protect(ctx context.Context, name, snapshot string, on bool) error
	Export(ctx context.Context, o volume.ExportOptions, write func(dir string) error) error
	Import(ctx context.Context, o volume.CreateOptions, fill func(dir string) error) (dockervolume.Volume, error)
}

// Pools are the file systems that volumes can be in; see internal/volume/btrfs.
type Pools interface {
	CreatePool(ctx context.Context, r api.PoolCreate) (api.Pool, error)
	Pools(ctx context.Context) ([]api.Pool, error)
	Pool(ctx context.Context, name string) (api.Pool, error)
	GrowPool(ctx context.Context, name string, bytes int64) (api.Pool, error)
	CheckPool(ctx context.Context, name string) (api.PoolCheck, error)
	RemovePool(ctx context.Context, name string) error
}

// Groups tells which volumes belong together.
type Groups interface {
	// Together are the volumes of a container, or of a compose project.
	Together(container, project string) ([]string, error)
}

// Archiver writes directories as tars and reads them; see internal/volume/archive.
type Archiver interface {
	Write(ctx context.Context, dir string, to io.Writer) error
	Extract(ctx context.Context, from io.Reader, dir string) (files, bytes int64, err error)
	// Compress returns a writer that compresses by that method
	// (errdefs.ErrInvalidArgument for an unknown one); Close ends the data.
	Compress(method string, to io.Writer) (io.WriteCloser, error)
}

// Router serves the verbs.
type Router struct {
	b         Backend
	pools     Pools
	groups    Groups
	archive   Archiver
	files     Files
	artifacts Artifacts
	clock     clock.Clock
}

// New returns the router.
func New(b Backend, p Pools, g Groups, a Archiver, f Files, arts Artifacts, c clock.Clock) *Router {
	return &Router{b, p, g, a, f, arts, c}
}

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: api.PathTrash, Handler: rt.trash},
		{Method: http.MethodDelete, Path: api.PathTrash, Handler: rt.emptyTrash},
		{Method: http.MethodDelete, Path: api.PathTrashed, Handler: rt.purge},
		{Method: http.MethodPost, Path: api.PathUndelete, Handler: rt.undelete},
		{Method: http.MethodGet, Path: api.PathSnapshots, Handler: rt.snapshots},
		{Method: http.MethodPost, Path: api.PathSnapshotGroup, Handler: rt.createGroup},
		{Method: http.MethodPost, Path: api.PathSnapshotPrune, Handler: rt.prune},
		{Method: http.MethodGet, Path: api.PathVolume, Handler: rt.about},
		{Method: http.MethodGet, Path: api.PathVolumeSnapshots, Handler: rt.snapshots},
		{Method: http.MethodPost, Path: api.PathVolumeSnapshots, Handler: rt.createSnapshot},
		{Method: http.MethodGet, Path: api.PathSnapshot, Handler: rt.snapshot},
		{Method: http.MethodDelete, Path: api.PathSnapshot, Handler: rt.removeSnapshot},
		{Method: http.MethodPost, Path: api.PathRollback, Handler: rt.rollback},
		{Method: http.MethodPost, Path: api.PathVolumeClone, Handler: rt.clone},
		{Method: http.MethodPost, Path: api.PathVolumeRename, Handler: rt.rename},
		{Method: http.MethodPost, Path: api.PathVolumeResize, Handler: rt.resize},
		{Method: http.MethodPost, Path: api.PathVolumeMove, Handler: rt.move},
		{Method: http.MethodGet, Path: api.PathPools, Handler: rt.listPools},
		{Method: http.MethodPost, Path: api.PathPools, Handler: rt.createPool},
		{Method: http.MethodGet, Path: api.PathPool, Handler: rt.pool},
		{Method: http.MethodDelete, Path: api.PathPool, Handler: rt.removePool},
		{Method: http.MethodPost, Path: api.PathPoolGrow, Handler: rt.growPool},
		{Method: http.MethodPost, Path: api.PathPoolCheck, Handler: rt.checkPool},
		{Method: http.MethodPost, Path: api.PathVolumeProtect, Handler: rt.protect},
		{Method: http.MethodHead, Path: api.PathVolumeFiles, Handler: rt.statFile},
		{Method: http.MethodGet, Path: api.PathVolumeFiles, Handler: rt.readFiles},
		{Method: http.MethodPut, Path: api.PathVolumeFiles, Handler: rt.writeFiles},
		{Method: http.MethodGet, Path: api.PathVolumeExport, Handler: rt.export},
		{Method: http.MethodPost, Path: api.PathVolumePush, Handler: rt.push},
		{Method: http.MethodPost, Path: api.PathVolumePull, Handler: rt.pull},
		{Method: http.MethodPost, Path: api.PathVolumeImport, Handler: rt.importTar},
	}
}

func showSnapshot(o volume.SnapshotOf) api.Snapshot {
	return api.Snapshot{
		Volume: o.Volume, Name: o.Name, Driver: o.Driver, Created: o.Created, Labels: o.Labels, Protected: o.Protected,
		Consistency: string(o.Consistency), Method: o.Method, Why: o.Why,
		Hook: o.Hook, PausedNanos: o.Paused.Nanoseconds(), Group: o.Group, Path: o.Path, Users: o.Users,
	}
}

func showSnapshots(all []volume.SnapshotOf) []api.Snapshot {
	out := make([]api.Snapshot, len(all))
	for i, o := range all {
		out[i] = showSnapshot(o)
	}
	return out
}

// copied tells how a copy that began then came about.
func (rt *Router) copied(name string, c volume.Consistency, m volume.Made, began time.Time) api.VolumeCopied {
	return api.VolumeCopied{
		Name: name, Consistency: string(c), Method: m.Method, Files: m.Files, Bytes: m.Bytes,
		TookNanos: rt.clock.Now().Sub(began).Nanoseconds(),
	}
}

func (rt *Router) about(w http.ResponseWriter, r *http.Request) error {
	a, err := rt.b.About(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	c := a.Capabilities
	return route.JSON(w, http.StatusOK, api.Volume{
		Name: a.Name, Driver: a.Driver, Protected: a.Protected, Origin: a.Origin,
		Snapshots: showSnapshots(a.Snapshots), Users: orEmpty(a.Users), Mounted: orEmpty(a.Mounted),
		Capabilities: api.VolumeCapabilities{Snapshot: c.Snapshot, PointInTime: c.PointInTime, Clone: c.Clone, Rename: c.Rename, Quota: c.Quota, Send: c.Send, Incremental: c.Incremental},
	})
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (rt *Router) snapshots(w http.ResponseWriter, r *http.Request) error {
	all, err := rt.b.Snapshots(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, showSnapshots(all))
}

func (rt *Router) createSnapshot(w http.ResponseWriter, r *http.Request) error {
	var in api.SnapshotCreate
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	began := rt.clock.Now()
	snap, made, err := rt.b.Snapshot(r.Context(), volume.SnapshotOptions{Volume: route.Var(r, "name"), Name: in.Name, Labels: in.Labels, Live: in.Live, Quiesce: quiesceMode(in.Quiesce)})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, rt.taken(snap, made, began))
}

// quiesceMode is the mode that a client means: "off" is what is done without one.
func quiesceMode(s string) volume.QuiesceMode {
	if s == "off" {
		return volume.QuiesceOff
	}
	return volume.QuiesceMode(s)
}

// taken tells how a snapshot came about.
func (rt *Router) taken(snap volume.Snapshot, made volume.Made, began time.Time) api.VolumeCopied {
	out := rt.copied(snap.Name, snap.Consistency, made, began)
	out.Hook, out.PausedNanos, out.Why = snap.Hook, snap.Paused.Nanoseconds(), snap.Why
	return out
}

func (rt *Router) createGroup(w http.ResponseWriter, r *http.Request) error {
	var in api.SnapshotGroup
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	volumes, err := rt.groups.Together(in.Container, in.Project)
	if err != nil {
		return err
	}
	o := volume.GroupOptions{Volumes: volumes, Name: in.Name, Labels: in.Labels, Quiesce: quiesceMode(in.Quiesce)}
	if o.Quiesce == volume.QuiesceOff { // also where there is one volume only
		o.Quiesce = volume.QuiesceFreeze
	}
	began := rt.clock.Now()
	all, err := rt.b.SnapshotGroup(r.Context(), o)
	if err != nil {
		return err
	}
	out := make([]api.SnapshotTaken, len(all))
	for i, t := range all {
		out[i] = api.SnapshotTaken{Volume: t.Volume, Group: t.Group, VolumeCopied: rt.taken(t.Snapshot, t.Made, began)}
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) snapshot(w http.ResponseWriter, r *http.Request) error {
	o, size, err := rt.b.SnapshotInfo(r.Context(), route.Var(r, "name"), route.Var(r, "snapshot"))
	if err != nil {
		return err
	}
	out := showSnapshot(o)
	out.Bytes = size
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) removeSnapshot(w http.ResponseWriter, r *http.Request) error {
	if err := rt.b.RemoveSnapshot(r.Context(), route.Var(r, "name"), route.Var(r, "snapshot")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	var in api.SnapshotPrune
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	if in.KeepLast < 0 || in.OlderThanNanos < 0 {
		return fault.New(errdefs.ErrInvalidArgument, "what a prune keeps cannot be less than nothing")
	}
	gone, err := rt.b.PruneSnapshots(r.Context(), volume.SnapshotPolicy{
		Volume: in.Volume, KeepLast: in.KeepLast, OlderThan: time.Duration(in.OlderThanNanos), All: in.All, DryRun: in.DryRun,
	})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, showSnapshots(gone))
}

func (rt *Router) rollback(w http.ResponseWriter, r *http.Request) error {
	var in api.Rollback
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	began := rt.clock.Now()
	kept, made, err := rt.b.Rollback(r.Context(), route.Var(r, "name"), route.Var(r, "snapshot"), in.Keep)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, rt.copied(kept.Name, "", made, began))
}

func (rt *Router) clone(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeClone
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	began := rt.clock.Now()
	v, made, err := rt.b.Clone(r.Context(), volume.CloneOptions{Volume: route.Var(r, "name"), Snapshot: in.Snapshot, To: in.To, Labels: in.Labels, Live: in.Live})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, rt.copied(v.Name, "", made, began))
}

func (rt *Router) rename(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeRename
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	if err := rt.b.Rename(r.Context(), route.Var(r, "name"), in.To); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) move(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeMove
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	o, err := moveOptions(route.Var(r, "name"), in)
	if err != nil {
		return err
	}
	began := rt.clock.Now()
	made, err := rt.b.Move(r.Context(), o)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, rt.copied(o.Volume, "", made, began))
}

// moveOptions says by driver options what a pool's name means.
func moveOptions(name string, in api.VolumeMove) (volume.MoveOptions, error) {
	o := volume.MoveOptions{Volume: name, Driver: in.Driver, Options: map[string]string{}}
	maps.Copy(o.Options, in.Options)
	if in.Driver == "" && in.Pool == "" && len(in.Options) == 0 {
		return o, fault.New(errdefs.ErrInvalidArgument, "say where the volume goes: to which driver or pool")
	}
	if in.Pool != "" {
		if o.Driver == "" {
			o.Driver = "btrfs"
		}
		if o.Driver != "btrfs" {
			return o, fault.New(errdefs.ErrInvalidArgument, "volume driver %s has no pools", o.Driver)
		}
		o.Options["pool"] = in.Pool
	}
	return o, nil
}

func (rt *Router) resize(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeResize
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	if err := rt.b.Resize(r.Context(), route.Var(r, "name"), in.Bytes); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) protect(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeProtect
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	if err := rt.b.Protect(r.Context(), route.Var(r, "name"), in.Snapshot, in.On); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// export sends the tar as it is read. What goes wrong after the first byte cuts
// the connection, so that nobody takes what there is for the whole.
func (rt *Router) export(w http.ResponseWriter, r *http.Request) error {
	out := &began{w: w}
	c, err := rt.archive.Compress(r.FormValue("compress"), out)
	if err != nil {
		return err
	}
	o := volume.ExportOptions{Volume: route.Var(r, "name"), Snapshot: r.FormValue("snapshot"), Live: route.Bool(r, "live")}
	ctx := r.Context()
	err = rt.b.Export(ctx, o, func(dir string) error { return rt.archive.Write(ctx, dir, c) })
	if err == nil {
		err = c.Close()
	}
	if err != nil && out.yes {
		panic(http.ErrAbortHandler)
	}
	return err
}

// began is a reply that knows whether anything was written of it.
type began struct {
	w   http.ResponseWriter
	yes bool
}

// Write implements io.Writer.
func (b *began) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.w.Header().Set("Content-Type", "application/x-tar")
	}
	return b.w.Write(p)
}

func (rt *Router) importTar(w http.ResponseWriter, r *http.Request) error {
	o, err := importOptions(r)
	if err != nil {
		return err
	}
	out := api.VolumeImported{}
	ctx := r.Context()
	v, err := rt.b.Import(ctx, o, func(dir string) (err error) {
		out.Files, out.Bytes, err = rt.archive.Extract(ctx, r.Body, dir)
		return err
	})
	if err != nil {
		return err
	}
	out.Name = v.Name
	return route.JSON(w, http.StatusCreated, out)
}

// importOptions say what volume an import makes.
func importOptions(r *http.Request) (o volume.CreateOptions, err error) {
	q := r.URL.Query()
	o = volume.CreateOptions{Name: route.Var(r, "name"), Driver: q.Get("driver")}
	if o.Labels, err = pairs(q["label"]); err != nil {
		return o, err
	}
	o.Options, err = pairs(q["opt"])
	return o, err
}

func pairs(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		if k == "" {
			return nil, fault.New(errdefs.ErrInvalidArgument, "%q is no key=value", kv)
		}
		out[k] = v
	}
	return out, nil
}
