package daemon

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/volume"
)

// What is kept for its own sake: snapshots of volumes, the trash, old logs. Docker
// prunes none of it.

func (d *Daemon) planKept(kind string, only []string, p *prunePlan) (err error) {
	ref := func(s volume.Stored) string { return api.PruneRef(kind, s.ID, s.Name) }
	switch kind {
	case api.PruneSnapshots:
		p.snapshots = slices.DeleteFunc(d.volumes.StoredSnapshots(), func(s volume.Stored) bool { return s.Kept != "" })
		p.snapshots = chosen(only, p.snapshots, ref)
	case api.PruneTrash:
		p.trash = chosen(only, d.volumes.StoredTrash(), ref)
	case api.PruneLogs:
		if p.logs, err = d.containers.OldLogs(); err != nil {
			return err
		}
		p.logs = chosen(only, p.logs, func(l container.OldLog) string { return api.PruneRef(kind, l.ID, logName(l)) })
	}
	return nil
}

// logName tells the files of a container's log apart.
func logName(l container.OldLog) string {
	return l.Name + " " + strings.TrimPrefix(filepath.Base(l.File.Path), l.ID+"-")
}

func (d *Daemon) keptCandidates(kind string, p *prunePlan) []usage.Candidate {
	var out []usage.Candidate
	switch kind {
	case api.PruneSnapshots:
		for _, s := range p.snapshots {
			out = append(out, d.storedCandidate(kind, usage.Snapshot, s, "no container refers to it"))
		}
	case api.PruneTrash:
		for _, s := range p.trash {
			out = append(out, d.storedCandidate(kind, usage.Trash, s, "it was removed"))
		}
	case api.PruneLogs:
		for _, l := range p.logs {
			out = append(out, logCandidate(l))
		}
	}
	return out
}

func logCandidate(l container.OldLog) usage.Candidate {
	why := "rotated out"
	if l.Last {
		why = "its container does not run"
	}
	return usage.Candidate{Kind: api.PruneLogs, ID: l.ID, Name: logName(l), Why: why, Size: l.File.Bytes, Own: l.File.Bytes}
}

// storedCandidate weighs without measuring: the background has the size soon.
func (d *Daemon) storedCandidate(kind string, of usage.Kind, s volume.Stored, why string) usage.Candidate {
	out := usage.Candidate{Kind: kind, ID: s.ID, Name: s.Name, Why: why, Size: -1}
	if t, ok := d.ledger.Known(usage.Key{Kind: of, ID: s.ID}); ok {
		out.Size, out.Own = t.Bytes, t.Disk
	}
	return out
}

// pruneKept removes what of the plan is as it was.
func (d *Daemon) pruneKept(ctx context.Context, kind string, p *prunePlan, removed func(kind, id, name string)) error {
	end := func(id, name string, err error) {
		switch {
		case err == nil:
			removed(kind, id, name)
		case errdefs.IsNotFound(err), errdefs.IsConflict(err):
			d.log.Info("not pruned", logkey.Name, name, logkey.Why, "used meanwhile")
		default:
			d.log.Warn("not pruned", logkey.Name, name, logkey.Err, err)
		}
	}
	switch kind {
	case api.PruneSnapshots:
		for _, s := range p.snapshots {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			end(s.ID, s.Name, d.volumes.PruneSnapshot(ctx, s))
		}
	case api.PruneTrash:
		for _, s := range p.trash {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			end(s.ID, s.Name, d.volumes.Purge(ctx, s.ID))
		}
	case api.PruneLogs:
		for _, l := range p.logs {
			end(l.ID, logName(l), d.containers.PruneLog(l))
		}
	}
	return nil
}
