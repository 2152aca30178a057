package kopia

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kopia/kopia/repo"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
)

// Restore implements backup.Engine.
func (e *Engine) Restore(ctx context.Context, a backup.Access, id, dir string, partial bool, progress func(tree.Totals)) (out backup.Restored, err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	k, err := find(ctx, rep, id)
	if err != nil {
		return out, err
	}
	out, _, err = e.unpack(ctx, rep, k, dir, partial, progress)
	if err == nil {
		err = failpoint.Hit("backup.restore.afterContents")
	}
	return out, err
}

// unpack makes the tree of a backup in dir. With partial it goes on where something
// cannot be read, and tells of the objects.
func (e *Engine) unpack(ctx context.Context, rep repo.Repository, k kept, dir string, partial bool, progress func(tree.Totals)) (out backup.Restored, broken []string, err error) {
	index := parts(ctx, rep, k.Parts)
	defer index.Close()
	objects := map[string]string{} // of files that were looked for last
	open := func(ctx context.Context, f *tree.Entry) (io.ReadCloser, error) {
		objects = map[string]string{f.Path.Escaped(): f.Object}
		return openObject(ctx, rep, f.Object)
	}
	var onDamage func(tree.Difference)
	if partial {
		onDamage = func(d tree.Difference) {
			out.Damaged = append(out.Damaged, d)
			if o := objects[d.Path]; o != "" {
				broken = append(broken, o)
			}
		}
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		t, err := tree.Tar(ctx, index, open, w, onDamage)
		out.Totals = t
		done <- err
		_ = w.CloseWithError(err) // never fails
	}()
	uerr := e.Unpack(ctx, r, dir)
	_ = r.CloseWithError(errors.New("the restore ended")) // never fails
	terr := <-done
	switch {
	case terr != nil && (uerr == nil || !errors.Is(terr, io.ErrClosedPipe)) && !strings.Contains(terr.Error(), "the restore ended"):
		if !isClassed(terr) && ctx.Err() == nil {
			terr = fault.Wrap(errdefs.ErrDataLoss, terr, "backup %s is damaged", short(k.ID))
		}
		return out, broken, terr
	case uerr != nil:
		return out, broken, uerr
	}
	if progress != nil {
		progress(out.Totals)
	}
	return out, broken, leaveOut(dir, out.Damaged)
}

func short(id string) string { return id[:min(12, len(id))] }

// leaveOut removes files whose content is not theirs. Their directories keep their
// times.
func leaveOut(dir string, damaged []tree.Difference) (err error) {
	if len(damaged) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, d := range damaged {
		var name tree.Text
		if err := name.UnmarshalText([]byte(d.Path)); err != nil {
			return err
		}
		in := path.Dir(string(name))
		st, err := root.Stat(in)
		if err != nil {
			return err
		}
		if err := root.Remove(string(name)); err != nil {
			return err
		}
		if err := root.Chtimes(in, time.Time{}, st.ModTime()); err != nil {
			return err
		}
	}
	return nil
}

// maxBroken bounds what is kept of the pieces of a damaged backup.
const maxBroken = 10000

// Verify implements backup.Engine.
func (e *Engine) Verify(ctx context.Context, a backup.Access, id, dir string, progress func(tree.Totals)) (v backup.Verification, err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	k, err := find(ctx, rep, id)
	if err != nil {
		return v, err
	}
	v = backup.Verification{Backup: id, Host: a.Host}
	restored, broken, err := e.unpack(ctx, rep, k, dir, true, progress)
	switch {
	case errdefs.IsDataLoss(err): // nothing can be restored, but that is known now
		v.Problems = append(restored.Damaged, tree.Difference{Path: ".", What: err.Error()})
		broken = append(broken, k.Parts...)
	case err != nil:
		return v, err
	default:
		v.Problems = restored.Damaged
		skip := map[string]bool{}
		for _, d := range restored.Damaged {
			skip[d.Path] = true
		}
		index := parts(ctx, rep, k.Parts)
		found, totals, err := tree.Compare(ctx, dir, index, func(p string) bool { return skip[p] })
		if err = errors.Join(err, index.Close()); err != nil {
			return v, err
		}
		v.Totals = totals
		v.Problems = append(v.Problems, found...)
	}
	v.Broken = brokenPieces(ctx, rep, broken)
	v.At = e.Now().UTC()
	if err := failpoint.Hit("backup.verify.beforeResult"); err != nil {
		return v, err
	}
	return v, repo.WriteSession(ctx, rep, repo.WriteSessionOptions{Purpose: "verification"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		_, err := w.ReplaceManifests(ctx, map[string]string{labelType: typeVerified, labelID: id}, v)
		return err
	})
}

// brokenPieces are the pieces of objects that cannot be read.
func brokenPieces(ctx context.Context, rep repo.DirectRepository, objects []string) []string {
	var out []string
	for _, o := range objects {
		ids, err := pieces(ctx, rep, o)
		if err != nil {
			continue // what it is made of is lost too; it is read again as a whole
		}
		for _, c := range ids {
			if len(out) >= maxBroken {
				return out
			}
			if _, err := rep.ContentReader().GetContent(ctx, c); err != nil {
				out = append(out, c.String())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
