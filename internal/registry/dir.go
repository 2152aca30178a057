package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Dir is a registry in a folder:
//
//	blobs/ALGORITHM/xx/HEX       all content, once
//	repos/NAME/_blobs/ALGORITHM-HEX      an empty file: the repository has it
//	repos/NAME/_manifests/ALGORITHM-HEX  what the manifest is, as JSON
//	repos/NAME/_tags/TAG         the digest
//	uploads/ID, uploads/ID.of    what comes in, and the repository it is for
//
// Files are the truth; what is in memory is read from them at the start. Content
// is written before what refers to it, and removed after it, so that a crash
// leaves at most content that nobody refers to. That goes at the next start.
type Dir struct {
	o    DirOptions
	root string
	lock *os.File

	uploads keylock.Locker // by upload

	mu    sync.Mutex // guards the fields below; held while files are linked and removed, never while content moves
	repos map[string]*repo
	refs  map[digest.Digest]int // how many repositories have it
	sums  map[string]*sum       // of uploads, as far as they came
}

// DirOptions change what a Dir does; Log and Clock are required.
type DirOptions struct {
	Log   *slog.Logger
	Clock clock.Clock
	// Grace is how long a blob stays that no manifest names, and an upload that
	// nobody goes on with. 0: an hour.
	Grace time.Duration
	// Untagged is how long a manifest stays that no tag and no other manifest
	// leads to. 0: for ever.
	Untagged time.Duration
}

type repo struct {
	blobs     map[digest.Digest]time.Time // since when
	manifests map[digest.Digest]*entry
	tags      map[string]digest.Digest
}

// entry is a manifest of a repository.
type entry struct {
	Descriptor ocispec.Descriptor
	Subject    digest.Digest
	Blobs      []digest.Digest
	Manifests  []digest.Digest
	Since      time.Time
}

// sum is the digest of what an upload has so far.
type sum struct {
	hash digest.Digester
	n    int64
}

const defaultGrace = time.Hour

// OpenDir opens a registry's folder, making it if it is not there.
func OpenDir(root string, o DirOptions) (_ *Dir, err error) {
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	for _, d := range []string{"blobs", "repos", "uploads"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, fmt.Errorf("make the registry's folder: %w", err)
		}
	}
	d := &Dir{o: o, root: root, repos: map[string]*repo{}, refs: map[digest.Digest]int{}, sums: map[string]*sum{}}
	if d.lock, err = os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("lock the registry's folder: %w", err)
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.lock.Close() // the lock is the error
		return nil, fmt.Errorf("another registry serves %s: %w", root, err)
	}
	if err := d.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the registry's folder: %w", err), d.lock.Close())
	}
	return d, nil
}

// Close lets another one have the folder.
func (d *Dir) Close() error { return d.lock.Close() }

func linkName(g digest.Digest) string { return g.Algorithm().String() + "-" + g.Encoded() }

func digestFromLink(name string) (digest.Digest, bool) {
	alg, enc, ok := strings.Cut(name, "-")
	g := digest.NewDigestFromEncoded(digest.Algorithm(alg), enc)
	return g, ok && g.Validate() == nil
}

func (d *Dir) blobPath(g digest.Digest) string {
	return filepath.Join(d.root, "blobs", g.Algorithm().String(), g.Encoded()[:2], g.Encoded())
}

func (d *Dir) repoPath(repo string, parts ...string) string {
	return filepath.Join(append([]string{d.root, "repos", filepath.FromSlash(repo)}, parts...)...)
}

// load reads what the files say, and removes content that nothing refers to.
func (d *Dir) load() error {
	base := filepath.Join(d.root, "repos")
	err := filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		kind := filepath.Base(filepath.Dir(rel))
		name := filepath.ToSlash(filepath.Dir(filepath.Dir(rel)))
		if !repoPattern.MatchString(name) || strings.HasPrefix(e.Name(), ".") {
			return nil // not ours
		}
		return d.loadFile(name, kind, path, e)
	})
	if err != nil {
		return err
	}
	for name, r := range d.repos {
		for tag, g := range r.tags {
			if r.manifests[g] != nil {
				continue
			}
			if err := d.deleteTag(name, r, tag); err != nil {
				return err
			}
		}
	}
	return d.dropUnreferenced()
}

func (d *Dir) loadFile(name, kind, path string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	r := d.repo(name)
	switch kind {
	case "_blobs":
		if g, ok := digestFromLink(e.Name()); ok {
			r.blobs[g] = info.ModTime()
			d.refs[g]++
		}
	case "_manifests":
		g, ok := digestFromLink(e.Name())
		if !ok {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var m entry
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.manifests[g] = &m
		d.refs[g]++
	case "_tags":
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if g := digest.Digest(strings.TrimSpace(string(b))); g.Validate() == nil && tagPattern.MatchString(e.Name()) {
			r.tags[e.Name()] = g
		}
	}
	return nil
}

func (d *Dir) dropUnreferenced() error {
	base := filepath.Join(d.root, "blobs")
	return filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		alg := filepath.Base(filepath.Dir(filepath.Dir(path)))
		if g := digest.NewDigestFromEncoded(digest.Algorithm(alg), e.Name()); g.Validate() == nil && d.refs[g] > 0 {
			return nil
		}
		return os.Remove(path)
	})
}

// repo is the repository of a name, made if it is not there. Called with mu held.
func (d *Dir) repo(name string) *repo {
	r := d.repos[name]
	if r == nil {
		r = &repo{blobs: map[digest.Digest]time.Time{}, manifests: map[digest.Digest]*entry{}, tags: map[string]digest.Digest{}}
		d.repos[name] = r
	}
	return r
}

// file is a blob of the folder. It can be read to its end, though it be removed
// meanwhile.
type file struct {
	*os.File
	size int64
}

// Size implements Blob.
func (f file) Size() int64 { return f.size }

// Blob implements Source.
func (d *Dir) Blob(_ context.Context, name string, g digest.Digest) (Blob, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil || r.blobs[g].IsZero() && r.manifests[g] == nil {
		return nil, errdefs.ErrNotFound
	}
	f, err := os.Open(d.blobPath(g))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file{f, st.Size()}, nil
}

// Manifest implements Source.
func (d *Dir) Manifest(_ context.Context, name, ref string) (ocispec.Descriptor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		return ocispec.Descriptor{}, errdefs.ErrNotFound
	}
	g := digest.Digest(ref)
	if !isDigest(ref) {
		g = r.tags[ref]
	}
	m := r.manifests[g]
	if m == nil {
		return ocispec.Descriptor{}, errdefs.ErrNotFound
	}
	return ocispec.Descriptor{MediaType: m.Descriptor.MediaType, Digest: g, Size: m.Descriptor.Size}, nil
}

// Tags implements Lister.
func (d *Dir) Tags(_ context.Context, name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		return nil, errdefs.ErrNotFound
	}
	return slices.Sorted(maps.Keys(r.tags)), nil
}

// Repositories implements Lister.
func (d *Dir) Repositories(context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.repos)), nil
}

// Referrers implements Lister.
func (d *Dir) Referrers(_ context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		return nil, nil
	}
	var out []ocispec.Descriptor
	for _, g := range slices.Sorted(maps.Keys(r.manifests)) {
		if m := r.manifests[g]; m.Subject == subject {
			out = append(out, m.Descriptor)
		}
	}
	return out, nil
}

func (d *Dir) uploadPath(id string) string { return filepath.Join(d.root, "uploads", id) }

// Begin implements Writer.
func (d *Dir) Begin(_ context.Context, repo string) (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	id := hex.EncodeToString(b[:])
	if err := atomicfile.Write(d.uploadPath(id)+".of", []byte(repo), 0o600); err != nil {
		return "", err
	}
	f, err := os.OpenFile(d.uploadPath(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	d.sums[id] = &sum{hash: digest.Canonical.Digester()}
	d.mu.Unlock()
	return id, f.Close()
}

// upload checks that there is an upload of the repository; its lock is held.
func (d *Dir) upload(repo, id string) (int64, error) {
	of, err := os.ReadFile(d.uploadPath(id) + ".of")
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(of) != repo {
		return 0, errdefs.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	st, err := os.Stat(d.uploadPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errdefs.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Uploaded implements Writer.
func (d *Dir) Uploaded(ctx context.Context, repo, id string) (int64, error) {
	unlock, err := d.uploads.Lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	return d.upload(repo, id)
}

// Append implements Writer.
func (d *Dir) Append(ctx context.Context, repo, id string, offset int64, r io.Reader) (_ int64, err error) {
	unlock, err := d.uploads.Lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	n, err := d.upload(repo, id)
	if err != nil {
		return 0, err
	}
	if offset >= 0 && offset != n {
		return n, fmt.Errorf("the upload ends at %d: %w", n, errdefs.ErrOutOfRange)
	}
	f, err := os.OpenFile(d.uploadPath(id), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d.mu.Lock()
	s := d.sums[id]
	d.mu.Unlock()
	w := io.Writer(f)
	if s != nil && s.n == n {
		w = io.MultiWriter(f, s.hash.Hash())
	}
	k, err := io.Copy(w, r)
	if s != nil && s.n == n {
		s.n += k
	}
	return n + k, err
}

// forgetUpload removes an upload; its lock is held.
func (d *Dir) forgetUpload(id string) error {
	d.mu.Lock()
	delete(d.sums, id)
	d.mu.Unlock()
	var errs []error
	for _, p := range []string{d.uploadPath(id), d.uploadPath(id) + ".of"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Cancel implements Writer.
func (d *Dir) Cancel(ctx context.Context, repo, id string) error {
	ctx = context.WithoutCancel(ctx)
	unlock, err := d.uploads.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := d.upload(repo, id); err != nil {
		return err
	}
	return d.forgetUpload(id)
}

// Finish implements Writer.
func (d *Dir) Finish(ctx context.Context, repo, id string, g digest.Digest) error {
	unlock, err := d.uploads.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := d.upload(repo, id)
	if err != nil {
		return err
	}
	got, err := d.sum(id, n, g.Algorithm())
	if err != nil {
		return err
	}
	if got != g {
		return errors.Join(fmt.Errorf("it is %s: %w", got, errdefs.ErrInvalidArgument), d.forgetUpload(id))
	}
	d.mu.Lock()
	err = d.keep(d.uploadPath(id), g)
	if err == nil {
		err = d.linkBlob(repo, g)
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.forgetUpload(id)
}

// sum is the digest of an upload, computed while it came if it came to this
// process whole.
func (d *Dir) sum(id string, n int64, alg digest.Algorithm) (digest.Digest, error) {
	f, err := os.Open(d.uploadPath(id))
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return "", err
	}
	d.mu.Lock()
	s := d.sums[id]
	d.mu.Unlock()
	if s != nil && s.n == n && alg == digest.Canonical {
		return s.hash.Digest(), nil
	}
	return alg.FromReader(f)
}

// keep moves a file, written out, to where content of that digest is. Called
// with mu held.
func (d *Dir) keep(from string, g digest.Digest) error {
	to := d.blobPath(g)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

// linkBlob says that the repository has the blob, as of now. Called with mu held.
func (d *Dir) linkBlob(name string, g digest.Digest) error {
	p := d.repoPath(name, "_blobs", linkName(g))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(p, nil, 0o644); err != nil {
		return err
	}
	r := d.repo(name)
	if _, had := r.blobs[g]; !had {
		d.refs[g]++
	}
	r.blobs[g] = d.o.Clock.Now()
	return nil
}

// Mount implements Writer.
func (d *Dir) Mount(_ context.Context, name, from string, g digest.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for other, r := range d.repos {
		if _, has := r.blobs[g]; has && (from == "" || from == other) {
			return d.linkBlob(name, g)
		}
	}
	return errdefs.ErrNotFound
}

// Put implements Writer.
func (d *Dir) Put(_ context.Context, name, tag string, desc ocispec.Descriptor, m manifest, body []byte) error {
	g := desc.Digest
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		r = &repo{} // made only once it holds something
	}
	for _, b := range m.blobs {
		if _, has := r.blobs[b]; !has {
			return fmt.Errorf("blob %s is not in the repository: %w", b, errdefs.ErrNotFound)
		}
	}
	for _, c := range m.manifests {
		if r.manifests[c] == nil {
			return fmt.Errorf("manifest %s is not in the repository: %w", c, errdefs.ErrNotFound)
		}
	}
	e := &entry{Descriptor: desc, Subject: m.subject, Blobs: m.blobs, Manifests: m.manifests, Since: d.o.Clock.Now()}
	record, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.blobPath(g)), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(d.blobPath(g), body, 0o644); err != nil {
		return err
	}
	p := d.repoPath(name, "_manifests", linkName(g))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(p, record, 0o644); err != nil {
		return err
	}
	r = d.repo(name)
	if r.manifests[g] == nil {
		d.refs[g]++
	}
	r.manifests[g] = e
	if tag == "" {
		return nil
	}
	p = d.repoPath(name, "_tags", tag)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(p, []byte(g.String()+"\n"), 0o644); err != nil {
		return err
	}
	r.tags[tag] = g
	return nil
}

// remove removes a file of a repository. Called with mu held.
func (d *Dir) remove(name, kind, file string) error {
	err := os.Remove(d.repoPath(name, kind, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// unref removes content that no repository has any more. Called with mu held.
func (d *Dir) unref(g digest.Digest) error {
	if d.refs[g]--; d.refs[g] > 0 {
		return nil
	}
	delete(d.refs, g)
	if err := os.Remove(d.blobPath(g)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// DeleteTag implements Writer.
func (d *Dir) DeleteTag(_ context.Context, name, tag string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil || r.tags[tag] == "" {
		return errdefs.ErrNotFound
	}
	return d.deleteTag(name, r, tag)
}

func (d *Dir) deleteTag(name string, r *repo, tag string) error {
	if err := d.remove(name, "_tags", tag); err != nil {
		return err
	}
	delete(r.tags, tag)
	return nil
}

// DeleteManifest implements Writer.
func (d *Dir) DeleteManifest(_ context.Context, name string, g digest.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil || r.manifests[g] == nil {
		return errdefs.ErrNotFound
	}
	return d.deleteManifest(name, r, g)
}

func (d *Dir) deleteManifest(name string, r *repo, g digest.Digest) error {
	for tag, of := range r.tags {
		if of == g {
			if err := d.deleteTag(name, r, tag); err != nil {
				return err
			}
		}
	}
	if err := d.remove(name, "_manifests", linkName(g)); err != nil {
		return err
	}
	delete(r.manifests, g)
	return d.unref(g)
}

// DeleteBlob implements Writer.
func (d *Dir) DeleteBlob(_ context.Context, name string, g digest.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		return errdefs.ErrNotFound
	}
	if _, has := r.blobs[g]; !has {
		return errdefs.ErrNotFound
	}
	return d.deleteBlob(name, r, g)
}

func (d *Dir) deleteBlob(name string, r *repo, g digest.Digest) error {
	if err := d.remove(name, "_blobs", linkName(g)); err != nil {
		return err
	}
	delete(r.blobs, g)
	return d.unref(g)
}

// Collected tells what a collection removed.
type Collected struct {
	Manifests, Blobs, Uploads int
	Bytes                     int64
}

// Collect removes what nothing leads to: untagged manifests, blobs that no
// manifest of their repository names, uploads that nobody goes on with. It may run
// while the registry is used: one repository at a time is held, and what was
// pushed less than the grace ago stays.
func (d *Dir) Collect(ctx context.Context) (Collected, error) {
	var out Collected
	names, err := d.Repositories(ctx)
	if err != nil {
		return out, err
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err := d.collectRepo(name, &out); err != nil {
			return out, fmt.Errorf("collect garbage of %s: %w", name, err)
		}
	}
	err = d.collectUploads(ctx, &out)
	return out, err
}

func (d *Dir) collectRepo(name string, out *Collected) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.repos[name]
	if r == nil {
		return nil
	}
	manifests, blobs := r.garbage(d.o.Clock.Now(), d.o.Grace, d.o.Untagged)
	for _, g := range manifests {
		d.weigh(g, out)
		if err := d.deleteManifest(name, r, g); err != nil {
			return err
		}
		out.Manifests++
	}
	for _, g := range blobs {
		d.weigh(g, out)
		if err := d.deleteBlob(name, r, g); err != nil {
			return err
		}
		out.Blobs++
	}
	if len(r.blobs)+len(r.manifests) == 0 {
		delete(d.repos, name) // its empty folders mean nothing
	}
	return nil
}

// weigh counts content that goes with its last reference.
func (d *Dir) weigh(g digest.Digest, out *Collected) {
	if st, err := os.Stat(d.blobPath(g)); err == nil && d.refs[g] == 1 {
		out.Bytes += st.Size()
	}
}

// garbage decides what of a repository goes.
func (r *repo) garbage(now time.Time, grace, untagged time.Duration) (manifests, blobs []digest.Digest) {
	kept := map[digest.Digest]bool{}
	var keep func(g digest.Digest)
	keep = func(g digest.Digest) {
		m := r.manifests[g]
		if m == nil || kept[g] {
			return
		}
		kept[g] = true
		for _, c := range m.Manifests {
			keep(c)
		}
		for of, o := range r.manifests { // what speaks of it goes with it, not before
			if o.Subject == g {
				keep(of)
			}
		}
	}
	for _, g := range r.tags {
		keep(g)
	}
	for g, m := range r.manifests {
		if untagged == 0 || now.Sub(m.Since) < max(untagged, grace) {
			keep(g)
		}
	}
	named := map[digest.Digest]bool{}
	for g, m := range r.manifests {
		if !kept[g] {
			manifests = append(manifests, g)
			continue
		}
		for _, b := range m.Blobs {
			named[b] = true
		}
	}
	for g, since := range r.blobs {
		if !named[g] && now.Sub(since) >= grace {
			blobs = append(blobs, g)
		}
	}
	slices.Sort(manifests)
	slices.Sort(blobs)
	return manifests, blobs
}

func (d *Dir) collectUploads(ctx context.Context, out *Collected) error {
	all, err := os.ReadDir(filepath.Join(d.root, "uploads"))
	if err != nil {
		return err
	}
	for _, e := range all {
		id := strings.TrimSuffix(e.Name(), ".of")
		if id != e.Name() || !uploadPattern.MatchString(id) {
			continue
		}
		unlock, err := d.uploads.Lock(ctx, id)
		if err != nil {
			return err
		}
		st, err := os.Stat(d.uploadPath(id))
		if err == nil && d.o.Clock.Now().Sub(st.ModTime()) >= d.o.Grace {
			if err = d.forgetUpload(id); err == nil {
				out.Uploads++
				out.Bytes += st.Size()
			}
		}
		unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Run collects garbage now and then until ctx ends.
func (d *Dir) Run(ctx context.Context, every time.Duration) error {
	for {
		if clock.Sleep(ctx, d.o.Clock, every) != nil {
			return nil
		}
		got, err := d.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			d.o.Log.Warn("garbage of the registry not collected", logkey.Err, err)
		}
		if got != (Collected{}) {
			d.o.Log.Info("garbage of the registry collected", logkey.Text, fmt.Sprintf("%d manifests, %d blobs, %d uploads, %d bytes", got.Manifests, got.Blobs, got.Uploads, got.Bytes))
		}
	}
}
