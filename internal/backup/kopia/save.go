package kopia

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/failpoint"
)

const compressor = compression.Name("zstd-fastest")

const defaultCheckpoint = 30 * time.Second

// Save implements backup.Engine.
func (e *Engine) Save(ctx context.Context, a backup.Access, r backup.SaveRequest, progress func(tree.Totals)) (b backup.Backup, err error) {
	defer func() { err = e.plain(a, err) }()
	rep, err := e.open(ctx, a)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	s := &saving{
		e: e, r: r,
		labels: map[string]string{labelVolume: r.Backup.Volume, labelHost: a.Host},
		header: tree.Header{Moment: r.Backup.Moment, Stable: r.Stable},
	}
	r.Backup.Host = a.Host
	o := repo.WriteSessionOptions{Purpose: "backup of " + r.Backup.Volume, OnUpload: func(n int64) { s.stored.Add(n) }}
	err = repo.DirectWriteSession(ctx, rep, o, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		s.w = w
		b, err = s.run(ctx, a, r.Backup, progress)
		return err
	})
	if f := e.fatal.Load(); err == nil && f != nil {
		err = *f
	}
	return b, err
}

// saving is one save.
type saving struct {
	e      *Engine
	r      backup.SaveRequest
	w      repo.DirectRepositoryWriter
	labels map[string]string
	header tree.Header
	stored atomic.Int64

	part   object.Writer // the part of the list that is being written
	index  *tree.IndexWriter
	parts  []string
	put    time.Time // when the last part was put down
	dirs   []*folder
	linked map[tree.Text]*snapshot.DirEntry
}

// folder is a directory that is being gone through.
type folder struct {
	entry   *tree.Entry
	builder snapshotfs.DirManifestBuilder
}

func (s *saving) run(ctx context.Context, a backup.Access, b backup.Backup, progress func(tree.Totals)) (backup.Backup, error) {
	if err := s.giveUpBroken(ctx); err != nil {
		return b, err
	}
	earlier, err := s.earlier(ctx)
	if err != nil {
		return b, err
	}
	defer earlier.Close()
	s.linked = map[tree.Text]*snapshot.DirEntry{}
	if err := s.begin(ctx); err != nil {
		return b, err
	}
	b.Totals, err = tree.Save(ctx, tree.SaveOptions{
		Dir: s.r.Dir, Header: s.header, Earlier: earlier, Workers: s.workers(), Progress: progress,
	}, s, func(e *tree.Entry) error { return s.entry(ctx, e) })
	if err != nil {
		return b, err
	}
	if err := s.end(); err != nil {
		return b, err
	}
	root, err := s.root(ctx)
	if err != nil {
		return b, err
	}
	if err := failpoint.Hit("backup.save.afterContents"); err != nil {
		return b, err
	}
	// The contents first: so what they take is known, and the manifests are whole in
	// one step.
	if err := s.w.Flush(ctx); err != nil {
		return b, err
	}
	b.Stored, b.Finished = s.stored.Load(), s.e.Now().UTC()
	man := &snapshot.Manifest{
		Source:      snapshot.SourceInfo{Host: a.Host, UserName: username, Path: "/volumes/" + b.Volume},
		Description: "Holdfast volume " + b.Volume,
		StartTime:   stamp(b.Moment), EndTime: stamp(b.Finished),
		RootEntry: root,
	}
	k := kept{Backup: b, Header: s.header, Parts: s.parts}
	if k.Snapshot, err = snapshot.SaveSnapshot(ctx, s.w, man); err != nil {
		return b, err
	}
	id, err := s.w.PutManifest(ctx, s.typed(typeBackup), k)
	if err != nil {
		return b, err
	}
	if err := s.forgetCheckpoints(ctx); err != nil {
		return b, err
	}
	if err := s.w.Flush(ctx); err != nil {
		return b, err
	}
	b.ID = string(id)
	return b, failpoint.Hit("backup.save.afterManifest")
}

func (s *saving) workers() int {
	if s.e.Workers > 0 {
		return s.e.Workers
	}
	return 4
}

func stamp(t time.Time) fs.UTCTimestamp { return fs.UTCTimestamp(t.UnixNano()) }

func (s *saving) typed(t string) map[string]string {
	out := map[string]string{labelType: t}
	for k, v := range s.labels {
		out[k] = v
	}
	return out
}

// earlier are the lists that say what need not be read again: of a save that was cut
// off, and of the last backup.
func (s *saving) earlier(ctx context.Context) (*tree.Earlier, error) {
	var lists []*tree.IndexReader
	found, err := s.w.FindManifests(ctx, s.typed(typeCheckpoint))
	if err != nil {
		return nil, err
	}
	for _, m := range found {
		var c checkpoint
		if _, err := s.w.GetManifest(ctx, m.ID, &c); err != nil {
			return nil, fmt.Errorf("read how far an earlier backup came: %w", err)
		}
		lists = append(lists, parts(ctx, s.w, c.Parts))
	}
	last, err := backups(ctx, s.w, s.typed(typeBackup))
	if err != nil {
		return nil, err
	}
	if n := len(last); n > 0 {
		lists = append(lists, parts(ctx, s.w, last[n-1].Parts))
	}
	return tree.NewEarlier(lists...), nil
}

// giveUpBroken has the repository forget pieces that a verification could not read:
// else it would take them for there, and what has the same content would be lost too.
// Where a piece is written again, older backups have it back.
func (s *saving) giveUpBroken(ctx context.Context) error {
	known, err := verifications(ctx, s.w)
	if err != nil {
		return err
	}
	for _, v := range known {
		for _, id := range v.Broken {
			c, err := content.ParseID(id)
			if err != nil {
				return err
			}
			info, err := s.w.ContentInfo(ctx, c)
			if errors.Is(err, content.ErrContentNotFound) || err == nil && (info.Deleted || info.Timestamp().After(v.At)) {
				continue // forgotten, or written again since
			}
			if err == nil {
				err = s.w.ContentManager().DeleteContent(ctx, c)
			}
			if err != nil {
				return fmt.Errorf("forget the broken piece %s: %w", id, err)
			}
		}
	}
	return nil
}

// Put implements tree.Store.
func (s *saving) Put(ctx context.Context, name tree.Text, r io.Reader) (string, error) {
	return s.write(ctx, "FILE:"+name.Escaped(), compressor, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
		return err
	})
}

func (s *saving) write(ctx context.Context, what string, c compression.Name, do func(io.Writer) error) (_ string, err error) {
	w := s.w.NewObjectWriter(ctx, object.WriterOptions{Description: what, Compressor: c, MetadataCompressor: compressor})
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := do(w); err != nil {
		return "", err
	}
	id, err := w.Result()
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// Has implements tree.Store.
func (s *saving) Has(ctx context.Context, id string) bool {
	ids, err := pieces(ctx, s.w, id)
	if err != nil {
		return false
	}
	for _, c := range ids {
		if i, err := s.w.ContentInfo(ctx, c); err != nil || i.Deleted {
			return false
		}
	}
	return true
}

// begin and end are of a part of the list.
func (s *saving) begin(ctx context.Context) (err error) {
	s.part = s.w.NewObjectWriter(ctx, object.WriterOptions{Description: "LIST", Prefix: "k", Compressor: compressor, MetadataCompressor: compressor})
	s.put = s.e.Now()
	s.index, err = tree.NewIndexWriter(s.part, s.header)
	return err
}

func (s *saving) end() error {
	if err := s.index.Close(); err != nil {
		return err
	}
	id, err := s.part.Result()
	if err != nil {
		return err
	}
	s.parts = append(s.parts, id.String())
	return s.part.Close()
}

// entry takes the next entry into the list and into kopia's directories.
func (s *saving) entry(ctx context.Context, e *tree.Entry) error {
	if err := s.index.Write(e); err != nil {
		return err
	}
	if err := s.directories(ctx, e); err != nil {
		return err
	}
	every := s.e.CheckpointEvery
	if every == 0 {
		every = defaultCheckpoint
	}
	if e.Kind != tree.File || s.e.Now().Sub(s.put) < every {
		return nil
	}
	if err := s.end(); err != nil {
		return err
	}
	if _, err := s.w.ReplaceManifests(ctx, s.typed(typeCheckpoint), checkpoint{Parts: s.parts}); err != nil {
		return err
	}
	if err := s.w.Flush(ctx); err != nil {
		return err
	}
	if err := failpoint.Hit("backup.save.afterCheckpoint"); err != nil {
		return err
	}
	return s.begin(ctx)
}

func (s *saving) forgetCheckpoints(ctx context.Context) error {
	found, err := s.w.FindManifests(ctx, s.typed(typeCheckpoint))
	if err != nil {
		return err
	}
	for _, m := range found {
		if err := s.w.DeleteManifest(ctx, m.ID); err != nil {
			return err
		}
	}
	return nil
}

// directories makes kopia's form of the tree, for its own tools and its garbage
// collection. It has no hard links, attributes and devices; those are in our list.
func (s *saving) directories(ctx context.Context, e *tree.Entry) error {
	for len(s.dirs) > 1 && !below(s.dirs[len(s.dirs)-1].entry.Path, e.Path) {
		if err := s.leave(ctx); err != nil {
			return err
		}
	}
	if e.Kind == tree.Directory {
		s.dirs = append(s.dirs, &folder{entry: e})
		return nil
	}
	d := &snapshot.DirEntry{
		Name: tree.Text(path.Base(string(e.Path))).Escaped(), Permissions: snapshot.Permissions(e.Mode), FileSize: e.Size,
		ModTime: fs.UTCTimestamp(e.MTime), UserID: e.UID, GroupID: e.GID,
	}
	var err error
	switch e.Kind {
	case tree.File:
		d.Type = snapshot.EntryTypeFile
		d.ObjectID, err = object.ParseID(e.Object)
	case tree.Symlink:
		d.Type = snapshot.EntryTypeSymlink
		var id string
		if id, err = s.write(ctx, "SYMLINK", "", func(w io.Writer) error { _, err := io.WriteString(w, string(e.Link)); return err }); err == nil {
			d.ObjectID, err = object.ParseID(id)
		}
	case tree.HardLink:
		first, ok := s.linked[e.Link]
		if !ok {
			return nil // of something that kopia does not keep
		}
		name := d.Name
		d = first.Clone()
		d.Name = name
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path.Escaped(), err)
	}
	if e.Several && e.Kind == tree.File {
		s.linked[e.Path] = d
	}
	s.dirs[len(s.dirs)-1].builder.AddEntry(d)
	return nil
}

func below(dir, p tree.Text) bool {
	return dir == "." || strings.HasPrefix(string(p), string(dir)+"/")
}

// leave writes the directory that was gone through last.
func (s *saving) leave(ctx context.Context) error {
	n := len(s.dirs) - 1
	d, err := s.folder(ctx, s.dirs[n])
	if err != nil {
		return err
	}
	s.dirs[n-1].builder.AddEntry(d)
	s.dirs = s.dirs[:n]
	return nil
}

func (s *saving) folder(ctx context.Context, f *folder) (*snapshot.DirEntry, error) {
	e := f.entry
	m := f.builder.Build(fs.UTCTimestamp(e.MTime), "")
	id, err := snapshotfs.WriteDirManifest(ctx, s.w, e.Path.Escaped(), m, compressor)
	if err != nil {
		return nil, err
	}
	return &snapshot.DirEntry{
		Name: tree.Text(path.Base(string(e.Path))).Escaped(), Type: snapshot.EntryTypeDirectory, Permissions: snapshot.Permissions(e.Mode),
		ModTime: fs.UTCTimestamp(e.MTime), UserID: e.UID, GroupID: e.GID, ObjectID: id, DirSummary: m.Summary,
	}, nil
}

// root is the directory with data/ and the parts of the list.
func (s *saving) root(ctx context.Context) (*snapshot.DirEntry, error) {
	for len(s.dirs) > 1 {
		if err := s.leave(ctx); err != nil {
			return nil, err
		}
	}
	if len(s.dirs) == 0 {
		return nil, errors.New("the volume's directory was not found")
	}
	data, err := s.folder(ctx, s.dirs[0])
	if err != nil {
		return nil, err
	}
	data.Name = "data"
	top := &folder{entry: &tree.Entry{Path: "backup", Kind: tree.Directory, Mode: 0o700, MTime: s.header.Moment.UnixNano()}}
	top.builder.AddEntry(data)
	for i, p := range s.parts {
		id, err := object.ParseID(p)
		if err != nil {
			return nil, err
		}
		top.builder.AddEntry(&snapshot.DirEntry{
			Name: fmt.Sprintf("files-%06d.json", i+1), Type: snapshot.EntryTypeFile, Permissions: 0o600, ModTime: stamp(s.header.Moment), ObjectID: id,
		})
	}
	return s.folder(ctx, top)
}
