package kopia

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot/snapshotmaintenance"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/fault"
)

// Engine implements backup.Engine.
type Engine struct {
	// Unpack puts the tree of a tar in an empty directory and syncs it.
	Unpack func(ctx context.Context, from io.Reader, dir string) error
	Now    func() time.Time
	// CheckpointEvery is how often a save puts down what it has come to; 0: 30 s.
	CheckpointEvery time.Duration
	Workers         int // that read files; 0: 4

	fatal atomic.Pointer[error]
}

var _ backup.Engine = (*Engine)(nil)

// Types of our manifests.
const (
	typeBackup     = "holdfast-backup"
	typeCheckpoint = "holdfast-checkpoint"
	typeVerified   = "holdfast-verified"
)

const (
	labelType   = manifest.TypeLabelKey
	labelVolume = "volume"
	labelHost   = "hostname"
	labelID     = "backup"
)

// kept is the manifest of a backup.
type kept struct {
	backup.Backup
	Snapshot manifest.ID `json:"snapshot"` // kopia's own
	Header   tree.Header `json:"header"`
	Parts    []string    `json:"parts"` // objects of the list of files
}

// checkpoint is the manifest of a backup that goes on.
type checkpoint struct {
	Parts []string `json:"parts"`
}

// parts opens the parts of a list.
func parts(ctx context.Context, rep repo.Repository, ids []string) *tree.IndexReader {
	var open []func() (io.ReadCloser, error)
	for _, id := range ids {
		open = append(open, func() (io.ReadCloser, error) { return openObject(ctx, rep, id) })
	}
	return tree.NewIndexReader(open...)
}

func openObject(ctx context.Context, rep repo.Repository, id string) (io.ReadCloser, error) {
	oid, err := object.ParseID(id)
	if err != nil {
		return nil, err
	}
	return rep.OpenObject(ctx, oid)
}

// backups reads our manifests.
func backups(ctx context.Context, rep repo.Repository, labels map[string]string) ([]kept, error) {
	labels[labelType] = typeBackup
	found, err := rep.FindManifests(ctx, labels)
	if err != nil {
		return nil, err
	}
	out := make([]kept, 0, len(found))
	for _, m := range found {
		var k kept
		if _, err := rep.GetManifest(ctx, m.ID, &k); err != nil {
			return nil, fmt.Errorf("read what is known of a backup: %w", err)
		}
		k.ID = string(m.ID)
		out = append(out, k)
	}
	slices.SortStableFunc(out, func(a, b kept) int { return a.Moment.Compare(b.Moment) })
	return out, nil
}

// find is a backup by its ID.
func find(ctx context.Context, rep repo.Repository, id string) (kept, error) {
	var k kept
	m, err := rep.GetManifest(ctx, manifest.ID(id), &k)
	if errors.Is(err, manifest.ErrNotFound) || err == nil && m.Labels[labelType] != typeBackup {
		return k, fault.New(errdefs.ErrNotFound, "no such backup: %s", id)
	}
	k.ID = id
	return k, err
}

// verifications are what is known of backups, the newest of each.
func verifications(ctx context.Context, rep repo.Repository) (map[string]backup.Verification, error) {
	found, err := rep.FindManifests(ctx, map[string]string{labelType: typeVerified})
	if err != nil {
		return nil, err
	}
	out := map[string]backup.Verification{}
	for _, m := range found {
		var v backup.Verification
		if _, err := rep.GetManifest(ctx, m.ID, &v); err != nil {
			return nil, fmt.Errorf("read what is known of a verification: %w", err)
		}
		if v.At.After(out[v.Backup].At) {
			out[v.Backup] = v
		}
	}
	return out, nil
}

// List implements backup.Engine.
func (e *Engine) List(ctx context.Context, a backup.Access) (out []backup.Backup, err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	all, err := backups(ctx, rep, map[string]string{})
	if err != nil {
		return nil, err
	}
	known, err := verifications(ctx, rep)
	if err != nil {
		return nil, err
	}
	out = make([]backup.Backup, len(all))
	for i, k := range all {
		out[i] = k.Backup
		if v, ok := known[k.ID]; ok {
			out[i].Verified = &v
		}
	}
	return out, nil
}

// Remove implements backup.Engine.
func (e *Engine) Remove(ctx context.Context, a backup.Access, ids []string) (err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	return repo.WriteSession(ctx, rep, repo.WriteSessionOptions{Purpose: "remove"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		for _, id := range ids {
			k, err := find(ctx, w, id)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			looks, err := w.FindManifests(ctx, map[string]string{labelType: typeVerified, labelID: id})
			if err != nil {
				return err
			}
			for _, m := range looks {
				if err := w.DeleteManifest(ctx, m.ID); err != nil {
					return err
				}
			}
			for _, m := range []manifest.ID{k.Snapshot, manifest.ID(id)} {
				if err := w.DeleteManifest(ctx, m); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Maintain implements backup.Engine. Who made the repository does it, at kopia's own
// times and with its margins: what nothing needs is gone after two days or so.
func (e *Engine) Maintain(ctx context.Context, a backup.Access) (err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	err = repo.DirectWriteSession(ctx, rep, repo.WriteSessionOptions{Purpose: "maintenance"}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		return snapshotmaintenance.Run(ctx, w, maintenance.ModeAuto, false, maintenance.SafetyFull)
	})
	var other maintenance.NotOwnedError
	if errors.As(err, &other) {
		return nil
	}
	return err
}

// pieces are the contents that an object is made of.
func pieces(ctx context.Context, rep repo.Repository, id string) ([]content.ID, error) {
	oid, err := object.ParseID(id)
	if err != nil {
		return nil, err
	}
	return rep.VerifyObject(ctx, oid)
}
