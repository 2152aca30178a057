package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/process"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
)

func (d *Daemon) startBackups(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	var engine backup.Engine = noBackups{}
	if d.paths.Backup != "" {
		engine = &process.Engine{Path: d.paths.Backup}
	}
	dir := filepath.Join(d.cfg.Root, "backups")
	d.volumes.DropPassing(ctx)
	d.backups, err = backup.New(ctx, backup.Deps{
		Clock: d.clock, Random: rand.Reader, Log: d.log, Events: d.events,
		Repositories: store.NewCollection[backup.Repository](d.db, "backup-repositories"),
		Jobs:         store.NewCollection[backup.Job](d.db, "backup-jobs"),
		States:       store.NewCollection[backup.State](d.db, "backup-states"),
		Secrets:      secretFiles{dir: dir},
		Engine:       engine,
		Volumes:      backupVolumes{d.volumes},
		Host:         host, Dir: dir,
		Settings: func() backup.Settings { return d.settings().Backup },
	})
	if err != nil {
		return err
	}
	d.supervise(ctx, "backups", d.backups.Run)
	return nil
}

// secretFiles keeps the secrets of repositories in files that root alone reads, apart
// from the records, which are shown.
type secretFiles struct{ dir string }

func (s secretFiles) file(name string) string { return filepath.Join(s.dir, name, "secrets.json") }

// Put implements backup.Secrets.
func (s secretFiles) Put(name string, secrets map[string]string) error {
	if err := os.MkdirAll(filepath.Dir(s.file(name)), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(secrets)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.file(name), b, 0o600)
}

// Get implements backup.Secrets.
func (s secretFiles) Get(name string) (out map[string]string, err error) {
	b, err := os.ReadFile(s.file(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(errdefs.ErrNotFound, "its secrets are gone (%s): remove it and add it again", s.file(name))
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fault.New(errdefs.ErrDataLoss, "its secrets cannot be read (%s): remove it and add it again", s.file(name))
	}
	return out, nil
}

// Delete implements backup.Secrets. The engine's settings and caches go along.
func (s secretFiles) Delete(name string) error { return os.RemoveAll(filepath.Join(s.dir, name)) }

// backupVolumes are the volumes as the domain of backups needs them.
type backupVolumes struct{ v *volume.Service }

// All implements backup.Volumes.
func (b backupVolumes) All() []backup.Spec {
	var out []backup.Spec
	for _, f := range b.v.AllFacts() {
		s := backup.Spec{Name: f.Name, Driver: f.Driver, Options: f.Options, Labels: f.Labels}
		if f.Anonymous {
			s.Origin = backup.OriginAnonymous
		}
		out = append(out, s)
	}
	return out
}

// Read implements backup.Volumes.
func (b backupVolumes) Read(ctx context.Context, name, quiesce string, read func(backup.Source) error) error {
	return b.v.ReadState(ctx, name, "backup", volume.QuiesceMode(quiesce), func(r volume.Reading) error {
		return read(backup.Source{
			Dir: r.Dir, Driver: r.Driver, Options: r.Options, Labels: r.Labels,
			Consistency: string(r.Consistency), Snapshot: r.Snapshot != "", Moment: r.Moment, Stable: r.Stable,
			Quiet: backup.Quiet{Hook: r.Hook, Paused: r.Paused, Why: r.Why},
		})
	})
}

func createOptions(s backup.Spec) volume.CreateOptions {
	return volume.CreateOptions{Name: s.Name, Driver: s.Driver, Options: s.Options, Labels: s.Labels}
}

// Fill implements backup.Volumes.
func (b backupVolumes) Fill(ctx context.Context, s backup.Spec, fill func(dir string) error) error {
	_, err := b.v.Fill(ctx, createOptions(s), s.Origin, fill)
	return err
}

// Scratch implements backup.Volumes.
func (b backupVolumes) Scratch(ctx context.Context, s backup.Spec, use func(dir string) error) error {
	return b.v.Scratch(ctx, createOptions(s), use)
}

// MayReplace implements backup.Volumes.
func (b backupVolumes) MayReplace(ctx context.Context, name string) error {
	return b.v.MayReplace(ctx, name)
}

// Replace implements backup.Volumes.
func (b backupVolumes) Replace(ctx context.Context, name, with string) (backup.Kept, error) {
	r, err := b.v.Replace(ctx, name, with)
	return backup.Kept(r), err
}

// Discard implements backup.Volumes.
func (b backupVolumes) Discard(ctx context.Context, name string) error {
	return b.v.Discard(ctx, name)
}

// noBackups is the engine where the program for it is missing.
type noBackups struct{}

var errNoBackups = fault.New(errdefs.ErrNotImplemented, "backups need the program holdfast-backup beside holdfastd, and it is not there")

// Prepare implements backup.Engine.
func (noBackups) Prepare(context.Context, backup.Access) (bool, error) { return false, errNoBackups }

// List implements backup.Engine.
func (noBackups) List(context.Context, backup.Access) ([]backup.Backup, error) {
	return nil, errNoBackups
}

// Save implements backup.Engine.
func (noBackups) Save(context.Context, backup.Access, backup.SaveRequest, func(tree.Totals)) (backup.Backup, error) {
	return backup.Backup{}, errNoBackups
}

// Restore implements backup.Engine.
func (noBackups) Restore(context.Context, backup.Access, string, string, bool, func(tree.Totals)) (backup.Restored, error) {
	return backup.Restored{}, errNoBackups
}

// Verify implements backup.Engine.
func (noBackups) Verify(context.Context, backup.Access, string, string, func(tree.Totals)) (backup.Verification, error) {
	return backup.Verification{}, errNoBackups
}

// Remove implements backup.Engine.
func (noBackups) Remove(context.Context, backup.Access, []string) error { return errNoBackups }

// Maintain implements backup.Engine.
func (noBackups) Maintain(context.Context, backup.Access) error { return errNoBackups }

// backupsBackend answers the router of backups.
type backupsBackend struct{ s *backup.Service }

func showRepository(r backup.Repository, made bool) api.BackupRepository {
	return api.BackupRepository{Name: r.Name, Kind: string(r.Place.Kind), URL: r.Place.URL, Options: r.Place.Options, Created: r.Created, Made: made}
}

func showBackup(b backup.Backup) api.Backup {
	out := api.Backup{
		ID: b.ID, Repository: b.Repository, Volume: b.Volume, Host: b.Host, Driver: b.Driver, Tag: b.Tag, Why: b.Why,
		Moment: b.Moment, Finished: b.Finished, Consistency: b.Consistency, From: string(b.From),
		Hook: b.Quiet.Hook, PausedNanos: b.Quiet.Paused.Nanoseconds(), QuiesceNote: b.Quiet.Why,
		Files: b.Totals.Files, Bytes: b.Totals.Bytes, ReadFiles: b.Totals.Read, ReadBytes: b.Totals.ReadBytes, StoredBytes: b.Stored,
	}
	if b.Verified != nil {
		v := showVerification(*b.Verified, b)
		out.Verified = &v
	}
	return out
}

func showDifferences(all []tree.Difference) []api.BackupProblem {
	out := make([]api.BackupProblem, len(all))
	for i, p := range all {
		out[i] = api.BackupProblem(p)
	}
	return out
}

func showVerification(v backup.Verification, b backup.Backup) api.BackupVerification {
	return api.BackupVerification{
		Backup: b.ID, Volume: b.Volume, At: v.At, Host: v.Host, Good: v.OK(), Files: v.Totals.Files, Bytes: v.Totals.Bytes, Problems: showDifferences(v.Problems),
	}
}

// AddRepository implements the router's Backend.
func (b backupsBackend) AddRepository(ctx context.Context, r api.BackupRepositoryAdd) (api.BackupRepository, error) {
	got, made, err := b.s.AddRepository(ctx, r.Name, r.URL, r.Options, r.Secrets)
	return showRepository(got, made), err
}

// Repositories implements the router's Backend.
func (b backupsBackend) Repositories(context.Context) []api.BackupRepository {
	out := []api.BackupRepository{}
	for _, r := range b.s.Repositories() {
		out = append(out, showRepository(r, false))
	}
	return out
}

// RemoveRepository implements the router's Backend.
func (b backupsBackend) RemoveRepository(ctx context.Context, name string) error {
	return b.s.RemoveRepository(ctx, name)
}

// Backup implements the router's Backend.
func (b backupsBackend) Backup(ctx context.Context, name string, r api.BackupCreate) (api.Backup, error) {
	got, err := b.s.Backup(ctx, backup.Options{Volume: name, Repository: r.Repository, Tag: r.Tag, Quiesce: r.Quiesce})
	return showBackup(got), err
}

// Backups implements the router's Backend.
func (b backupsBackend) Backups(ctx context.Context, name, repository string) (api.BackupList, error) {
	found, err := b.s.List(ctx, name, repository)
	if err != nil {
		return api.BackupList{}, err
	}
	out := api.BackupList{Backups: []api.Backup{}, Failed: map[string]string{}, Schedules: []api.BackupSchedule{}}
	for _, x := range found.Backups {
		out.Backups = append(out.Backups, showBackup(x))
	}
	for r, err := range found.Failed {
		out.Failed[r] = err.Error()
	}
	for _, p := range b.s.Schedules() {
		if name != "" && p.Plan.Volume != name {
			continue
		}
		out.Schedules = append(out.Schedules, api.BackupSchedule{
			Volume: p.Plan.Volume, Schedule: p.Plan.Schedule, Next: timeOrNil(p.Next), LastBackup: timeOrNil(p.LastBackup), LastError: p.LastError, Failures: p.Failures,
		})
	}
	return out, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Restore implements the router's Backend.
func (b backupsBackend) Restore(ctx context.Context, id string, r api.BackupRestore) (api.BackupRestored, error) {
	got, err := b.s.Restore(ctx, backup.RestoreOptions{Backup: id, To: r.To, Driver: r.Driver, Replace: r.Replace, Partial: r.Partial})
	if err != nil {
		return api.BackupRestored{}, err
	}
	out := api.BackupRestored{
		Backup: got.Backup.ID, Volume: got.Volume, Files: got.Totals.Files, Bytes: got.Totals.Bytes, Damaged: showDifferences(got.Damaged),
	}
	if got.Kept != nil {
		out.Kept, out.KeptInTrash = got.Kept.Name, got.Kept.InTrash
	}
	return out, nil
}

// Verify implements the router's Backend.
func (b backupsBackend) Verify(ctx context.Context, id string) (api.BackupVerification, error) {
	v, of, err := b.s.Verify(ctx, id)
	return showVerification(v, of), err
}

// Remove implements the router's Backend.
func (b backupsBackend) Remove(ctx context.Context, id string) (api.Backup, error) {
	got, err := b.s.Remove(ctx, id)
	return showBackup(got), err
}
