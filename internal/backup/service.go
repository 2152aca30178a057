package backup

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Records keeps records of one kind durably. Put and Delete are atomic and on disk
// when they return.
type Records[T any] interface {
	Put(id string, r *T) error
	Delete(id string) error
	All() ([]*T, error)
}

// Secrets keeps what opens repositories, where nothing shows it.
type Secrets interface {
	Put(name string, secrets map[string]string) error
	Get(name string) (map[string]string, error) // errdefs.ErrNotFound
	Delete(name string) error                   // one that is not there is no error
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// Spec describes a volume to make.
type Spec struct {
	Name    string
	Driver  string
	Options map[string]string
	Labels  map[string]string
	Origin  string
}

// Source is a state of a volume to read.
type Source struct {
	Dir         string
	Driver      string
	Options     map[string]string
	Labels      map[string]string
	Consistency string
	Snapshot    bool // made for this; else it is the volume itself
	Moment      time.Time
	Stable      bool
	Quiet       Quiet
}

// Kept tells where what a replacement replaced is.
type Kept struct {
	Name    string
	InTrash bool
}

// Volumes are the volumes of this machine.
type Volumes interface {
	// All tells of every volume.
	All() []Spec
	// Read hands a state of a volume; it stays while it is read. quiesce is how those
	// who write are had to hold still for a moment; empty: not.
	Read(ctx context.Context, volume, quiesce string, read func(Source) error) error
	// Fill makes a volume with the content that fill gives it, or none.
	Fill(ctx context.Context, v Spec, fill func(dir string) error) error
	// Scratch hands an empty volume that nobody sees and that is gone afterwards.
	Scratch(ctx context.Context, v Spec, use func(dir string) error) error
	// MayReplace refuses what Replace would, as far as that can be told now.
	MayReplace(ctx context.Context, name string) error
	// Replace puts the data of a volume, which is no more then, in place of another's,
	// which is kept.
	Replace(ctx context.Context, name, with string) (Kept, error)
	// Discard removes a volume for good; one that is not there is no error.
	Discard(ctx context.Context, name string) error
}

// Settings are the daemon's, for volumes whose labels say nothing.
type Settings struct {
	Repository string `json:"repository,omitempty"`
	Schedule   string `json:"schedule,omitempty"` // for volumes with a name
	Keep       string `json:"keep,omitempty"`
	Quiesce    string `json:"quiesce,omitempty"`
}

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock        clock.Clock
	Random       io.Reader
	Log          *slog.Logger
	Events       Publisher
	Repositories Records[Repository]
	Jobs         Records[Job]
	States       Records[State]
	Secrets      Secrets
	Engine       Engine
	Volumes      Volumes
	Host         string // who we are in repositories
	Dir          string // for what the engine keeps here
	Settings     func() Settings
}

// Job is work that was begun. It is written before anything is done, and taken away
// with the result: a start finds what was left, and takes it away.
type Job struct {
	ID         string
	Verb       string
	Volume     string
	Repository string
	Backup     string `json:",omitempty"`
	Temp       string `json:",omitempty"` // a volume that is no use without the result
	Begun      time.Time
}

// Verbs of jobs, which are also their events.
const (
	VerbBackup  = "backup"
	VerbRestore = "restore"
	VerbVerify  = "verify"
)

// Service is the domain of backups.
type Service struct {
	d   Deps
	ops keylock.Locker // "volume NAME" or "repository NAME": one work at a time

	mu     sync.Mutex // guards repos and states; never held across I/O
	repos  map[string]*Repository
	states map[string]*State
}

// New reads the records and takes away what an earlier daemon's work left.
func New(ctx context.Context, d Deps) (*Service, error) {
	s := &Service{d: d, repos: map[string]*Repository{}, states: map[string]*State{}}
	repos, err := d.Repositories.All()
	if err != nil {
		return nil, fmt.Errorf("read records of repositories: %w", err)
	}
	for _, r := range repos {
		s.repos[r.Name] = r
	}
	states, err := d.States.All()
	if err != nil {
		return nil, fmt.Errorf("read records of backups: %w", err)
	}
	for _, st := range states {
		s.states[st.Volume] = st
	}
	jobs, err := d.Jobs.All()
	if err != nil {
		return nil, fmt.Errorf("read records of work on backups: %w", err)
	}
	for _, j := range jobs {
		s.settle(ctx, j)
	}
	return s, nil
}

// settle ends a job of a daemon that has died. What it wrote to a repository helps the
// next one; what it made here is taken away.
func (s *Service) settle(ctx context.Context, j *Job) {
	if j.Temp != "" {
		if err := s.d.Volumes.Discard(ctx, j.Temp); err != nil {
			s.d.Log.Error("half-restored volume not removed", logkey.Volume, j.Temp, logkey.Err, err)
			return // the next start tries again
		}
	}
	why := errors.New("the daemon ended during the " + j.Verb)
	if j.Verb == VerbBackup {
		s.note(j.Volume, func(st *State) { st.failed(s.d.Clock.Now(), why) })
	}
	if err := s.d.Jobs.Delete(j.ID); err != nil {
		s.d.Log.Warn("record of ended work stays", logkey.Volume, j.Volume, logkey.Err, err)
	}
	s.d.Log.Warn("work on a backup was cut off", logkey.Volume, j.Volume, logkey.Method, j.Verb, logkey.Why, why.Error())
	s.tellFailed(j, why)
}

// begin writes the intent. end takes it away, publishes what became of it, and
// returns the job's error.
func (s *Service) begin(ctx context.Context, j Job) (end func(*error), err error) {
	var b [6]byte
	if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
		return nil, fmt.Errorf("make a name for the work: %w", err)
	}
	j.ID, j.Begun = hex.EncodeToString(b[:]), s.d.Clock.Now().UTC()
	if err := s.d.Jobs.Put(j.ID, &j); err != nil {
		return nil, err
	}
	return func(failed *error) {
		if *failed != nil {
			s.tellFailed(&j, *failed)
		}
		if j.Temp != "" && *failed != nil {
			if err := s.d.Volumes.Discard(context.WithoutCancel(ctx), j.Temp); err != nil {
				s.d.Log.Warn("half-restored volume stays until the next start", logkey.Volume, j.Temp, logkey.Err, err)
				return
			}
		}
		if err := s.d.Jobs.Delete(j.ID); err != nil {
			s.d.Log.Warn("record of ended work stays until the next start", logkey.Volume, j.Volume, logkey.Err, err)
		}
	}, nil
}

func (s *Service) publish(action, volume string, attributes map[string]string) {
	maps.DeleteFunc(attributes, func(_, v string) bool { return v == "" })
	s.d.Events.Publish(events.Message{
		Type: events.VolumeEventType, Action: events.Action(action),
		Actor: events.Actor{ID: volume, Attributes: attributes},
	})
}

func (s *Service) tellFailed(j *Job, why error) {
	s.publish(j.Verb+"-failed", j.Volume, map[string]string{"repository": j.Repository, "backup": j.Backup, "error": why.Error()})
}

// ---- repositories

var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// AddRepository makes a repository at a place, or takes one that is there, and tells
// which.
func (s *Service) AddRepository(ctx context.Context, name, where string, options, secrets map[string]string) (_ Repository, made bool, err error) {
	if !nameRule.MatchString(name) {
		return Repository{}, false, fault.New(errdefs.ErrInvalidArgument, "%q is no name for a repository: want letters, digits, '_', '.', '-'", name)
	}
	place, err := ParsePlace(where, options, slices.Sorted(maps.Keys(secrets)))
	if err != nil {
		return Repository{}, false, err
	}
	unlock, err := s.ops.Lock(ctx, "repository "+name)
	if err != nil {
		return Repository{}, false, err
	}
	defer unlock()
	if _, err := s.repository(name); err == nil {
		return Repository{}, false, fault.New(errdefs.ErrConflict, "repository %s is there already: remove it first, its backups stay where they are", name)
	}
	r := Repository{Name: name, Place: place, Created: s.d.Clock.Now().UTC()}
	if made, err = s.d.Engine.Prepare(ctx, s.access(r, secrets)); err != nil {
		return Repository{}, false, err
	}
	if err := s.d.Secrets.Put(name, secrets); err != nil {
		return Repository{}, false, err
	}
	if err := s.d.Repositories.Put(name, &r); err != nil {
		return Repository{}, false, errors.Join(err, s.d.Secrets.Delete(name))
	}
	s.mu.Lock()
	s.repos[name] = &r
	s.mu.Unlock()
	s.d.Log.Info("repository added", logkey.Name, name, logkey.Path, place.URL)
	return r, made, nil
}

// Repositories are those that are known, by name.
func (s *Service) Repositories() []Repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Repository{}
	for _, n := range slices.Sorted(maps.Keys(s.repos)) {
		out = append(out, *s.repos[n])
	}
	return out
}

// RemoveRepository forgets a repository and its secrets. What is in it stays.
func (s *Service) RemoveRepository(ctx context.Context, name string) error {
	unlock, err := s.ops.Lock(ctx, "repository "+name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.repository(name); err != nil {
		return err
	}
	if err := s.d.Repositories.Delete(name); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.repos, name)
	s.mu.Unlock()
	s.d.Log.Info("repository forgotten", logkey.Name, name)
	return s.d.Secrets.Delete(name)
}

func (s *Service) repository(name string) (Repository, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.repos[name]; ok {
		return *r, nil
	}
	return Repository{}, fault.New(errdefs.ErrNotFound, "no such repository: %s", name)
}

// choose finds the repository for a volume: the one that is asked for, its label's, the
// daemon's, or the only one.
func (s *Service) choose(asked string, labels map[string]string) (Repository, error) {
	for _, name := range []string{asked, labels[LabelRepository], s.d.Settings().Repository} {
		if name != "" {
			return s.repository(name)
		}
	}
	all := s.Repositories()
	switch len(all) {
	case 1:
		return all[0], nil
	case 0:
		return Repository{}, fault.New(errdefs.ErrFailedPrecondition, "there is no repository for backups: add one first (holdfast volume backup-repo add)")
	}
	return Repository{}, fault.New(errdefs.ErrInvalidArgument, "there are %d repositories: name one", len(all))
}

func (s *Service) access(r Repository, secrets map[string]string) Access {
	return Access{Name: r.Name, Place: r.Place, Secrets: secrets, Dir: filepath.Join(s.d.Dir, r.Name), Host: s.d.Host}
}

func (s *Service) open(r Repository) (Access, error) {
	secrets, err := s.d.Secrets.Get(r.Name)
	if err != nil {
		return Access{}, fmt.Errorf("repository %s: %w", r.Name, err)
	}
	return s.access(r, secrets), nil
}

// ---- backups

// Listed is what List finds.
type Listed struct {
	Backups []Backup
	// Failed are the repositories that could not be asked, with the reason.
	Failed map[string]error
}

// List tells the backups of a volume, or of all, in a repository, or in all; oldest
// first. A repository that cannot be asked does not hide the others.
func (s *Service) List(ctx context.Context, volume, repository string) (Listed, error) {
	repos := s.Repositories()
	if repository != "" {
		r, err := s.repository(repository)
		if err != nil {
			return Listed{}, err
		}
		repos = []Repository{r}
	}
	out := Listed{Backups: []Backup{}, Failed: map[string]error{}}
	for _, r := range repos {
		found, err := s.in(ctx, r)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err != nil {
			out.Failed[r.Name] = err
			continue
		}
		for _, b := range found {
			if volume == "" || b.Volume == volume {
				out.Backups = append(out.Backups, b)
			}
		}
	}
	slices.SortStableFunc(out.Backups, func(a, b Backup) int { return a.Moment.Compare(b.Moment) })
	return out, nil
}

func (s *Service) in(ctx context.Context, r Repository) ([]Backup, error) {
	a, err := s.open(r)
	if err != nil {
		return nil, err
	}
	found, err := s.d.Engine.List(ctx, a)
	for i := range found {
		found[i].Repository = r.Name
	}
	return found, err
}

// minPrefix is how much of an ID names a backup.
const minPrefix = 6

// find is the one backup whose ID begins so.
func (s *Service) find(ctx context.Context, id string) (Backup, error) {
	if len(id) < minPrefix {
		return Backup{}, fault.New(errdefs.ErrInvalidArgument, "%q is too short for the ID of a backup: at least %d digits", id, minPrefix)
	}
	all, err := s.List(ctx, "", "")
	if err != nil {
		return Backup{}, err
	}
	var found []Backup
	for _, b := range all.Backups {
		if strings.HasPrefix(b.ID, id) {
			found = append(found, b)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Backup{}, fault.New(errdefs.ErrInvalidArgument, "%d backups have IDs that begin with %s", len(found), id)
	}
	for _, name := range slices.Sorted(maps.Keys(all.Failed)) { // it may be there
		return Backup{}, fmt.Errorf("look for backup %s: %w", id, all.Failed[name])
	}
	return Backup{}, fault.New(errdefs.ErrNotFound, "no such backup: %s", id)
}

func (s *Service) volume(name string) (Spec, error) {
	for _, v := range s.d.Volumes.All() {
		if v.Name == name {
			return v, nil
		}
	}
	return Spec{}, fault.New(errdefs.ErrNotFound, "get %s: no such volume", name)
}

// Options of a backup.
type Options struct {
	Volume     string
	Repository string // empty: the volume's, the daemon's, or the only one
	Tag        string
	Why        string // WhySchedule; empty for a person
	Quiesce    string // on, try, freeze, off; empty: the volume's or the daemon's
}

// quiesceMode says how those who write hold still for a backup: as asked, as the
// volume's label says, or as the daemon's settings do.
func quiesceMode(asked string, labels map[string]string, d Settings) (string, error) {
	switch m := cmp.Or(asked, labels[LabelQuiesce], d.Quiesce); m {
	case "", "off":
		return "", nil
	case "on", "try", "freeze":
		return m, nil
	default:
		return "", fault.New(errdefs.ErrInvalidArgument, "unknown way to quiesce %q: want on, try, freeze or off", m)
	}
}

// WhySchedule marks backups that nobody asked for at that moment. Retention is about
// them alone.
const WhySchedule = "schedule"

// Backup makes a backup of a volume.
func (s *Service) Backup(ctx context.Context, o Options) (b Backup, err error) {
	v, err := s.volume(o.Volume)
	if err != nil {
		return b, err
	}
	r, err := s.choose(o.Repository, v.Labels)
	if err != nil {
		return b, err
	}
	quiesce, err := quiesceMode(o.Quiesce, v.Labels, s.d.Settings())
	if err != nil {
		return b, err
	}
	unlock, err := s.ops.Lock(ctx, "volume "+o.Volume)
	if err != nil {
		return b, err
	}
	defer unlock()
	a, err := s.open(r)
	if err != nil {
		return b, err
	}
	end, err := s.begin(ctx, Job{Verb: VerbBackup, Volume: o.Volume, Repository: r.Name})
	if err != nil {
		return b, err
	}
	defer end(&err)
	err = s.d.Volumes.Read(ctx, o.Volume, quiesce, func(src Source) error {
		want := Backup{
			Volume: o.Volume, Driver: src.Driver, Options: src.Options, Labels: src.Labels, Tag: o.Tag, Why: o.Why,
			Moment: src.Moment, Consistency: src.Consistency, From: FromVolume, Quiet: src.Quiet,
		}
		if src.Snapshot {
			want.From = FromSnapshot
		}
		b, err = s.d.Engine.Save(ctx, a, SaveRequest{Backup: want, Dir: src.Dir, Stable: src.Stable}, nil)
		return err
	})
	if err != nil && b.ID != "" { // it is not what it says it is: a container came while a still volume was read
		err = errors.Join(err, s.d.Engine.Remove(context.WithoutCancel(ctx), a, []string{b.ID}))
	}
	now := s.d.Clock.Now()
	s.note(o.Volume, func(st *State) {
		if err != nil {
			st.failed(now, err)
			return
		}
		st.LastBackup, st.LastError, st.Failures = now.UTC(), "", 0
	})
	if err != nil {
		return Backup{}, fmt.Errorf("back up volume %s: %w", o.Volume, err)
	}
	b.Repository = r.Name
	s.d.Log.Info("volume backed up", logkey.Volume, o.Volume, logkey.To, r.Name, logkey.Name, b.ID)
	s.publish(VerbBackup, o.Volume, map[string]string{"repository": r.Name, "backup": b.ID, "consistency": b.Consistency, "from": string(b.From), "why": b.Why})
	return b, nil
}

// RestoreOptions say what becomes of a backup.
type RestoreOptions struct {
	Backup  string // its ID, or the beginning of it
	To      string // the volume; empty: the one it is of
	Driver  string // empty: the one it was of
	Replace bool   // put it in place of the volume's data, which is kept
	Partial bool   // leave out what is damaged
}

// Restoration tells what a restore brought.
type Restoration struct {
	Restored
	Backup Backup
	Volume string
	Kept   *Kept // what was replaced
}

// Restore makes a volume of a backup. A volume that is there is left alone unless the
// options say that it shall be replaced.
func (s *Service) Restore(ctx context.Context, o RestoreOptions) (out Restoration, err error) {
	b, err := s.find(ctx, o.Backup)
	if err != nil {
		return out, err
	}
	out.Backup, out.Volume = b, o.To
	if out.Volume == "" {
		out.Volume = b.Volume
	}
	r, err := s.repository(b.Repository)
	if err != nil {
		return out, err
	}
	a, err := s.open(r)
	if err != nil {
		return out, err
	}
	unlock, err := s.ops.Lock(ctx, "volume "+out.Volume)
	if err != nil {
		return out, err
	}
	defer unlock()
	spec, job, err := s.target(ctx, o, b, out.Volume)
	if err != nil {
		return out, err
	}
	end, err := s.begin(ctx, job)
	if err != nil {
		return out, err
	}
	defer end(&err)
	err = s.d.Volumes.Fill(ctx, spec, func(dir string) error {
		out.Restored, err = s.d.Engine.Restore(ctx, a, b.ID, dir, o.Partial, nil)
		return err
	})
	if err == nil && o.Replace {
		var kept Kept
		if kept, err = s.d.Volumes.Replace(ctx, out.Volume, spec.Name); err == nil {
			out.Kept = &kept
		}
	}
	if err != nil {
		return out, fmt.Errorf("restore backup %s to volume %s: %w", short(b.ID), out.Volume, err)
	}
	s.d.Log.Info("volume restored", logkey.Volume, out.Volume, logkey.From, b.Repository, logkey.Name, b.ID)
	s.publish(VerbRestore, out.Volume, map[string]string{"repository": b.Repository, "backup": b.ID})
	return out, nil
}

func short(id string) string { return id[:min(12, len(id))] }

// target is the volume that a restore makes, and the job that it is.
func (s *Service) target(ctx context.Context, o RestoreOptions, b Backup, name string) (Spec, Job, error) {
	job := Job{Verb: VerbRestore, Volume: name, Repository: b.Repository, Backup: b.ID}
	have, err := s.volume(name)
	switch {
	case err == nil && !o.Replace:
		return Spec{}, job, fault.New(errdefs.ErrConflict, "volume %s is there: restore to another (--to), or say that it shall be replaced (--replace), which keeps what is in it now", name)
	case err == nil && o.Driver != "" && o.Driver != have.Driver:
		return Spec{}, job, fault.New(errdefs.ErrInvalidArgument, "volume %s is of driver %s and stays so when it is replaced", name, have.Driver)
	case err == nil:
		if err := s.d.Volumes.MayReplace(ctx, name); err != nil {
			return Spec{}, job, err
		}
		spec := have
		spec.Name = name + ".restoring-" + short(b.ID)
		spec.Origin = "backup " + b.ID
		job.Temp = spec.Name
		return spec, job, nil
	case o.Replace:
		return Spec{}, job, err
	}
	spec := Spec{Name: name, Driver: b.Driver, Options: b.Options, Labels: b.Labels, Origin: "backup " + b.ID}
	if o.Driver != "" && o.Driver != b.Driver {
		spec.Driver, spec.Options = o.Driver, nil // another driver's options are no use
	}
	if name != b.Volume { // a copy to look at is not backed up by itself
		spec.Labels = maps.Clone(b.Labels)
		for _, l := range []string{LabelSchedule, LabelKeep, LabelRepository, LabelQuiesce} {
			delete(spec.Labels, l)
		}
	}
	return spec, job, nil
}

// Verify restores a backup into a scratch volume and compares.
func (s *Service) Verify(ctx context.Context, id string) (v Verification, b Backup, err error) {
	if b, err = s.find(ctx, id); err != nil {
		return v, b, err
	}
	v, err = s.verify(ctx, b)
	return v, b, err
}

func (s *Service) verify(ctx context.Context, b Backup) (v Verification, err error) {
	r, err := s.repository(b.Repository)
	if err != nil {
		return v, err
	}
	a, err := s.open(r)
	if err != nil {
		return v, err
	}
	end, err := s.begin(ctx, Job{Verb: VerbVerify, Volume: b.Volume, Repository: r.Name, Backup: b.ID})
	if err != nil {
		return v, err
	}
	defer end(&err)
	var n [4]byte
	if _, err := io.ReadFull(s.d.Random, n[:]); err != nil {
		return v, err
	}
	spec := Spec{Name: "verify-" + short(b.ID) + "-" + hex.EncodeToString(n[:]), Driver: b.Driver, Options: b.Options}
	err = s.d.Volumes.Scratch(ctx, spec, func(dir string) error {
		v, err = s.d.Engine.Verify(ctx, a, b.ID, dir, nil)
		return err
	})
	if err != nil {
		return v, fmt.Errorf("verify backup %s: %w", short(b.ID), err)
	}
	result := "good"
	if !v.OK() {
		result = "damaged"
		s.d.Log.Error("backup is damaged", logkey.Volume, b.Volume, logkey.From, r.Name, logkey.Name, b.ID, logkey.Why, v.Problems[0].String())
	}
	s.publish(VerbVerify, b.Volume, map[string]string{"repository": r.Name, "backup": b.ID, "result": result})
	return v, nil
}

// Remove forgets a backup.
func (s *Service) Remove(ctx context.Context, id string) (Backup, error) {
	b, err := s.find(ctx, id)
	if err != nil {
		return b, err
	}
	return b, s.forget(ctx, b.Repository, []Backup{b})
}

func (s *Service) forget(ctx context.Context, repository string, gone []Backup) error {
	r, err := s.repository(repository)
	if err != nil {
		return err
	}
	a, err := s.open(r)
	if err != nil {
		return err
	}
	ids := make([]string, len(gone))
	for i, b := range gone {
		ids[i] = b.ID
	}
	if err := s.d.Engine.Remove(ctx, a, ids); err != nil {
		return err
	}
	for _, b := range gone {
		s.publish("backup-remove", b.Volume, map[string]string{"repository": repository, "backup": b.ID})
	}
	return s.d.Engine.Maintain(ctx, a)
}
