package btrfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Kind is what a pool is made of.
type Kind string

// Kinds of pools.
const (
	Directory Kind = "directory" // on a btrfs that is there
	Device    Kind = "device"    // a block device
	File      Kind = "file"      // a file of ours, by a loop device
)

// Record is everything about a pool that outlives the daemon.
type Record struct {
	Name    string
	Kind    Kind
	Source  string // the directory, the device or the file
	Created time.Time
	Ready   bool // false: in the making, or going
}

// Records keeps the records durably.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	All() ([]*Record, error)
}

// Deps are the parts Pools work with; all are required.
type Deps struct {
	Dir     string // files and mount points of pools are below it
	Records Records
	Clock   clock.Clock
	Log     *slog.Logger
}

// Pools are the file systems that volumes can be in.
type Pools struct {
	d     Deps
	locks keylock.Locker // by name; taken before mu

	mu     sync.Mutex // guards byName; never held across I/O
	byName map[string]*pool
}

// pool is one that is known. It does not change.
type pool struct {
	Record
	mount string // where it is
	quota bool
	err   error // why it cannot be used
}

func (p *pool) volumes() string { return filepath.Join(p.mount, "volumes") }

func (p *pool) sync() error { return in(p.mount, syncPool) }

// Open mounts the pools that are on record, and finishes what an earlier daemon
// began. One that cannot be mounted is kept, with the reason.
func Open(ctx context.Context, d Deps) (*Pools, error) {
	s := &Pools{d: d, byName: map[string]*pool{}}
	for _, dir := range []string{d.Dir, s.images(), s.mounts()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of pools: %w", err)
		}
	}
	recs, err := d.Records.All()
	if err != nil {
		return nil, fmt.Errorf("read records of pools: %w", err)
	}
	for _, r := range recs {
		if !r.Ready { // nobody was told of it, or it is empty and going
			if err := s.takeAway(ctx, *r); err != nil {
				d.Log.Error("half-made pool not removed", logkey.Name, r.Name, logkey.Err, err)
			}
			continue
		}
		p := s.bring(ctx, *r)
		if p.err != nil {
			d.Log.Error("pool not mounted", logkey.Name, r.Name, logkey.Err, p.err)
		}
		s.byName[r.Name] = p
	}
	return s, nil
}

func (s *Pools) images() string { return filepath.Join(s.d.Dir, "images") }
func (s *Pools) mounts() string { return filepath.Join(s.d.Dir, "mounts") }

func (s *Pools) mountOf(r Record) string {
	if r.Kind == Directory {
		return r.Source
	}
	return filepath.Join(s.mounts(), r.Name)
}

// volumes is the folder of a pool's volumes, whether it is there or not.
func (s *Pools) volumes(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.byName[name]; ok {
		return p.volumes()
	}
	return filepath.Join(s.mounts(), name, "volumes")
}

// find returns a pool that can be used.
func (s *Pools) find(name string) (*pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.byName[name]
	switch {
	case !ok && name == DefaultPool:
		return nil, fault.New(errdefs.ErrFailedPrecondition, "there is no pool %s yet: make one with \"holdfast pool create %s\", or name another by the option %s", name, name, optPool)
	case !ok:
		return nil, fault.New(errdefs.ErrInvalidArgument, "no such pool: %s", name)
	case p.err != nil:
		return nil, fault.Wrap(errdefs.ErrUnavailable, p.err, "pool %s is not mounted", name)
	}
	return p, nil
}

// bring mounts a pool that is whole.
func (s *Pools) bring(ctx context.Context, r Record) *pool {
	p := &pool{Record: r, mount: s.mountOf(r)}
	p.err = s.mountPool(ctx, p)
	if p.err == nil {
		p.err = s.tidy(p)
	}
	return p
}

func (s *Pools) mountPool(ctx context.Context, p *pool) error {
	if p.Kind != Directory {
		if err := os.MkdirAll(p.mount, 0o700); err != nil {
			return err
		}
		mounted, err := mountinfo.Mounted(p.mount)
		if err != nil {
			return err
		}
		if !mounted {
			if err := mountSource(ctx, p.Record, p.mount); err != nil {
				return err
			}
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.mount, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: p.mount, Err: err}
	}
	if int64(st.Type) != unix.BTRFS_SUPER_MAGIC {
		return fault.New(errdefs.ErrFailedPrecondition, "%s is on no btrfs", p.mount)
	}
	if err := os.MkdirAll(p.volumes(), 0o700); err != nil {
		return err
	}
	return in(p.volumes(), func(f *os.File) error {
		id, err := subvolumeID(f)
		if err != nil {
			return err
		}
		switch _, err := used(f, id); {
		case err == nil:
			p.quota = true
		case !errors.Is(err, errNoQuota):
			return err
		}
		return nil
	})
}

// tidy removes what an earlier daemon left in the making or going.
func (s *Pools) tidy(p *pool) error {
	for _, pattern := range []string{newPrefix + "*", gonePrefix + "*", filepath.Join("*", snapshotsDir, sendPrefix+"*")} {
		left, err := filepath.Glob(filepath.Join(p.volumes(), pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := removeAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func mountSource(ctx context.Context, r Record, at string) (err error) {
	source := r.Source
	if r.Kind == File {
		dev, err := attach(ctx, r.Source)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dev.Close()) }() // the mount holds it from then on
		source = dev.Name()
	}
	if err := unix.Mount(source, at, "btrfs", unix.MS_NOATIME, ""); err != nil {
		return &os.PathError{Op: "mount", Path: source, Err: err}
	}
	return nil
}

// CreateOptions make a pool.
type CreateOptions struct {
	Name   string
	Kind   Kind
	Source string // directory, device
	Size   int64  // file
	Sparse bool   // file: take the space when it is needed
}

var poolName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// minSize is the smallest that mkfs.btrfs makes with room for something.
const minSize = 256 << 20

func (o CreateOptions) check() error {
	if !poolName.MatchString(o.Name) {
		return fault.New(errdefs.ErrInvalidArgument, "invalid name of a pool: %q", o.Name)
	}
	switch o.Kind {
	case Directory, Device:
		if !filepath.IsAbs(o.Source) {
			return fault.New(errdefs.ErrInvalidArgument, "invalid source %q of a pool: it must be an absolute path", o.Source)
		}
		if o.Size != 0 || o.Sparse {
			return fault.New(errdefs.ErrInvalidArgument, "a size is for pools in a file")
		}
	case File:
		if o.Source != "" || o.Size < minSize {
			return fault.New(errdefs.ErrInvalidArgument, "a pool in a file needs a size of at least %d MiB", minSize>>20)
		}
	default:
		return fault.New(errdefs.ErrInvalidArgument, "unknown kind of pool: %q", o.Kind)
	}
	return nil
}

// Create makes a pool.
func (s *Pools) Create(ctx context.Context, o CreateOptions) (Info, error) {
	if err := o.check(); err != nil {
		return Info{}, err
	}
	unlock, err := s.locks.Lock(ctx, o.Name)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	s.mu.Lock()
	_, taken := s.byName[o.Name]
	s.mu.Unlock()
	if taken {
		return Info{}, fault.New(errdefs.ErrConflict, "pool %s already exists", o.Name)
	}
	r := Record{Name: o.Name, Kind: o.Kind, Source: filepath.Clean(o.Source), Created: s.d.Clock.Now().UTC()}
	if o.Kind == File {
		r.Source = filepath.Join(s.images(), o.Name+".btrfs")
	}
	if err := s.sourceIsFree(ctx, r); err != nil {
		return Info{}, err
	}
	if err := s.d.Records.Put(r.Name, &r); err != nil {
		return Info{}, err
	}
	p, err := s.make(ctx, r, o)
	if err != nil {
		err = fmt.Errorf("create pool %s: %w", o.Name, err)
		return Info{}, errors.Join(err, s.takeAway(context.WithoutCancel(ctx), r))
	}
	s.mu.Lock()
	s.byName[r.Name] = p
	s.mu.Unlock()
	return s.info(p)
}

// sourceIsFree looks before anything is on record, so that the undoing of a
// failed create never touches what belongs to somebody.
func (s *Pools) sourceIsFree(ctx context.Context, r Record) error {
	switch r.Kind {
	case Directory:
		if _, err := os.Stat(filepath.Join(r.Source, "volumes")); !errors.Is(err, os.ErrNotExist) {
			return fault.New(errdefs.ErrConflict, "%s has a folder \"volumes\" already: give an empty directory", r.Source)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(r.Source, &st); err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "look at %s", r.Source)
		}
		if int64(st.Type) != unix.BTRFS_SUPER_MAGIC {
			return fault.New(errdefs.ErrInvalidArgument, "%s is on no btrfs", r.Source)
		}
	case Device:
		if out, err := exec.CommandContext(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", r.Source).Output(); err == nil {
			return fault.New(errdefs.ErrConflict, "%s holds %s already: wipe it first (wipefs -a), or mount it and give the directory", r.Source, strings.TrimSpace(string(out)))
		}
	case File:
		if _, err := os.Lstat(r.Source); !errors.Is(err, os.ErrNotExist) {
			return fault.New(errdefs.ErrConflict, "%s is there already and belongs to no pool: move it away first", r.Source)
		}
	}
	return nil
}

// make is the deed and its result.
func (s *Pools) make(ctx context.Context, r Record, o CreateOptions) (*pool, error) {
	if err := failpoint.Hit("btrfs.pool.afterIntent"); err != nil {
		return nil, err
	}
	if r.Kind == File {
		if err := reserve(r.Source, o.Size, o.Sparse); err != nil {
			return nil, err
		}
	}
	if r.Kind != Directory {
		out, err := exec.CommandContext(ctx, "mkfs.btrfs", "-q", "-L", "holdfast-"+r.Name, r.Source).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fault.New(errdefs.ErrFailedPrecondition, "mkfs.btrfs is not installed (Debian: btrfs-progs)")
		}
		if err != nil {
			return nil, fmt.Errorf("mkfs.btrfs: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	if err := failpoint.Hit("btrfs.pool.afterFormat"); err != nil {
		return nil, err
	}
	p := s.bring(ctx, r)
	if p.err == nil && r.Kind != Directory { // what is not ours alone is left as it is
		p.err = in(p.mount, func(f *os.File) (err error) { p.quota, err = enableQuota(f); return err })
	}
	if p.err == nil {
		p.err = p.sync()
	}
	if p.err != nil {
		return nil, p.err
	}
	r.Ready, p.Ready = true, true
	return p, s.d.Records.Put(r.Name, &r)
}

// reserve makes a pool's file. Its space is taken at once unless that is not
// wanted: a pool whose disk is full cannot keep what it was given.
func reserve(path string, size int64, sparse bool) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if sparse {
		err = f.Truncate(size)
	} else {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = fault.Wrap(errdefs.ErrResourceExhausted, err, "take %d MiB for the pool", size>>20)
	}
	return errors.Join(err, f.Close())
}

// takeAway removes what there is of a pool without volumes, and its record.
func (s *Pools) takeAway(ctx context.Context, r Record) error {
	at := s.mountOf(r)
	if r.Kind == Directory {
		if err := os.Remove(filepath.Join(at, "volumes")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return s.d.Records.Delete(r.Name)
	}
	mounted, err := mountinfo.Mounted(at)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if mounted {
		if err := unix.Unmount(at, 0); err != nil {
			return &os.PathError{Op: "unmount", Path: at, Err: err}
		}
	}
	paths := []string{at}
	if r.Kind == File {
		paths = append(paths, r.Source)
	}
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return s.d.Records.Delete(r.Name)
}

// Info is a pool as it is now.
type Info struct {
	Record
	Mount   string
	Size    uint64 // bytes of the file system
	Free    uint64
	Volumes []string
	Trashed int // removed volumes that can be had back
	Quota   bool
	Err     string // why it cannot be used
}

func (s *Pools) info(p *pool) (Info, error) {
	i := Info{Record: p.Record, Mount: p.mount, Quota: p.quota, Volumes: []string{}}
	if p.err != nil {
		i.Err = p.err.Error()
		return i, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.mount, &st); err != nil {
		return i, &os.PathError{Op: "statfs", Path: p.mount, Err: err}
	}
	i.Size, i.Free = st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize) //nolint:gosec // a block has a size
	es, err := os.ReadDir(p.volumes())
	if err != nil {
		return i, err
	}
	for _, e := range es {
		switch {
		case !strings.HasPrefix(e.Name(), "."):
			i.Volumes = append(i.Volumes, e.Name())
		case !strings.HasPrefix(e.Name(), newPrefix) && !strings.HasPrefix(e.Name(), gonePrefix):
			i.Trashed++
		}
	}
	return i, nil
}

// get finds a pool, usable or not.
func (s *Pools) get(name string) (*pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.byName[name]; ok {
		return p, nil
	}
	return nil, fault.New(errdefs.ErrNotFound, "no such pool: %s", name)
}

// List shows the pools by name.
func (s *Pools) List() ([]Info, error) {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.byName))
	s.mu.Unlock()
	out := []Info{}
	for _, n := range names {
		i, err := s.Inspect(n)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// Inspect shows a pool.
func (s *Pools) Inspect(name string) (Info, error) {
	p, err := s.get(name)
	if err != nil {
		return Info{}, err
	}
	return s.info(p)
}

// Grow makes a pool in a file larger, or has one on a device take all of it.
func (s *Pools) Grow(ctx context.Context, name string, size int64) (Info, error) {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	if _, err := s.get(name); err != nil {
		return Info{}, err
	}
	p, err := s.find(name)
	if err != nil {
		return Info{}, err
	}
	switch {
	case p.Kind == Directory:
		return Info{}, fault.New(errdefs.ErrInvalidArgument, "pool %s is a directory: grow the file system that it is on", name)
	case p.Kind == Device && size != 0:
		return Info{}, fault.New(errdefs.ErrInvalidArgument, "pool %s is on a device: it takes all of that", name)
	case p.Kind == File:
		if err := growFile(p.Source, size); err != nil {
			return Info{}, fmt.Errorf("grow pool %s: %w", name, err)
		}
	}
	if err := in(p.mount, growToDevice); err != nil {
		return Info{}, err
	}
	return s.info(p)
}

func growFile(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if size <= st.Size {
		return fault.New(errdefs.ErrInvalidArgument, "it has %d MiB already, and a pool does not shrink", st.Size>>20)
	}
	if st.Blocks*512 < st.Size { // it was made sparse
		err = f.Truncate(size)
	} else {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.ENOSPC) {
		return errors.Join(fault.Wrap(errdefs.ErrResourceExhausted, err, "take %d MiB for the pool", size>>20), f.Truncate(st.Size))
	}
	if err != nil {
		return err
	}
	return growLoop(path)
}

// Check reads all of a pool and compares it with its checksums.
func (s *Pools) Check(_ context.Context, name string) (Scrub, error) {
	if _, err := s.get(name); err != nil {
		return Scrub{}, err
	}
	p, err := s.find(name)
	if err != nil {
		return Scrub{}, err
	}
	var out Scrub
	err = in(p.mount, func(f *os.File) (err error) { out, err = scrub(f); return err })
	return out, err
}

// empty refuses pools with anything in them.
func (i Info) empty() error {
	switch {
	case len(i.Volumes) > 0:
		return fault.New(errdefs.ErrConflict, "pool %s holds volumes [%s]: remove them first", i.Name, strings.Join(i.Volumes, ", "))
	case i.Trashed > 0:
		return fault.New(errdefs.ErrConflict, "pool %s holds %d removed volumes in the trash: empty it first", i.Name, i.Trashed)
	}
	return nil
}

// Remove takes an empty pool away.
func (s *Pools) Remove(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := s.get(name)
	if err != nil {
		return err
	}
	i, err := s.info(p)
	if err != nil {
		return err
	}
	if p.err != nil {
		return fault.Wrap(errdefs.ErrFailedPrecondition, p.err, "pool %s is not mounted, so nobody knows what is in it", name)
	}
	if err := i.empty(); err != nil {
		return err
	}
	// From now on nobody finds it; a volume that came in between keeps it.
	s.mu.Lock()
	delete(s.byName, name)
	s.mu.Unlock()
	if i, err = s.info(p); err == nil {
		err = i.empty()
	}
	if err == nil {
		r := p.Record
		r.Ready = false
		err = s.d.Records.Put(name, &r)
	}
	if err != nil {
		s.mu.Lock()
		s.byName[name] = p
		s.mu.Unlock()
		return err
	}
	if err := failpoint.Hit("btrfs.poolRemove.afterIntent"); err != nil {
		return err
	}
	if err := s.takeAway(context.WithoutCancel(ctx), p.Record); err != nil {
		return fmt.Errorf("remove pool %s, which the next start of the daemon will finish: %w", name, err)
	}
	return nil
}
