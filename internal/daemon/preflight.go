package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume/database"
	"holdfast.dev/holdfast/internal/volume/preflight"
)

// labelPreflight of a container names the database that it is, or is "off".
const labelPreflight = "holdfast.preflight"

// passedPreflight is a kind of file system on which a database was found safe.
type passedPreflight struct {
	Database   string
	FileSystem string
	When       time.Time
}

func (p passedPreflight) key() string { return p.Database + " " + p.FileSystem }

// preflights fills container.Preflight.
type preflights struct {
	d       *Daemon
	records *store.Collection[passedPreflight]

	mu     sync.Mutex // guards passed
	passed map[string]bool
}

func newPreflights(d *Daemon) (*preflights, error) {
	p := &preflights{d: d, records: store.NewCollection[passedPreflight](d.db, "preflights"), passed: map[string]bool{}}
	all, err := p.records.All()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		p.passed[r.key()] = true
	}
	return p, nil
}

// preflightFor says which database a container is to be tried for, if any, and whether
// that is sure enough to refuse it.
func preflightFor(u container.VolumeUser) (kind database.Kind, name string, sure bool) {
	switch l := u.Labels[labelPreflight]; {
	case l == "off":
		return database.None, "", false
	case l != "":
		if slices.Contains(preflight.Databases(), l) {
			return database.Kind(l), l, true
		}
		return database.None, "", false
	}
	g := database.Of(databaseFacts(u))
	name = string(g.Kind)
	if g.Kind == database.MySQL {
		name = string(database.MariaDB) // it needs the same
	}
	return g.Kind, name, !g.Weak
}

// dataPlaces are the places where a database has its data: those at its directories,
// or its volumes where none is.
func dataPlaces(kind database.Kind, env []string, places []container.Place) []container.Place {
	dirs := database.DataDirs(kind, env)
	of := slices.DeleteFunc(slices.Clone(places), func(p container.Place) bool { return !database.Holds(p.Target, dirs) })
	if len(of) == 0 {
		of = slices.DeleteFunc(slices.Clone(places), func(p container.Place) bool { return p.Volume == "" })
	}
	return of
}

// Check implements container.Preflight.
func (p *preflights) Check(ctx context.Context, u container.VolumeUser, places []container.Place) (warnings []string, refused error) {
	mode := p.d.cfg.VolumePreflight
	kind, name, sure := preflightFor(u)
	if mode == "off" || name == "" {
		return nil, nil
	}
	for _, at := range dataPlaces(kind, u.Env, places) {
		text, err := p.try(ctx, name, at)
		if err != nil {
			p.d.log.Warn("place of a database not tried", logkey.Container, u.ID, logkey.Path, at.Target, logkey.Err, err)
			continue
		}
		if text != "" {
			warnings = append(warnings, text)
		}
	}
	if len(warnings) > 0 && mode == "refuse" && sure {
		refused = fault.New(errdefs.ErrConflict, "%s (volume-preflight is \"refuse\"; the label %s=off of the container lets it start)", strings.Join(warnings, "; "), labelPreflight)
	}
	return warnings, refused
}

// try looks at one place; it answers nothing where that is good, or of a kind that is.
func (p *preflights) try(ctx context.Context, name string, at container.Place) (text string, err error) {
	what := "the directory " + at.Path
	if at.Volume != "" {
		what = "volume " + at.Volume
	}
	if at.Path == "" {
		user := "check-" + rand.Text()
		if at.Path, err = p.d.volumes.Mount(ctx, at.Volume, user); err != nil {
			return "", err
		}
		defer func() {
			err = errors.Join(err, p.d.volumes.Unmount(context.WithoutCancel(ctx), at.Volume, user))
		}()
	}
	switch st, err := os.Stat(at.Path); {
	case errors.Is(err, os.ErrNotExist): // the start makes it
		return "", nil
	case err != nil:
		return "", err
	case !st.IsDir():
		return "", nil
	}
	fs, err := preflight.FileSystem(at.Path)
	if err != nil {
		return "", err
	}
	found := passedPreflight{Database: name, FileSystem: fs, When: p.d.clock.Now().UTC()}
	p.mu.Lock()
	known := p.passed[found.key()]
	p.mu.Unlock()
	if known {
		return "", nil
	}
	r, err := preflight.Run(ctx, at.Path, name)
	if err != nil {
		return "", err
	}
	if v := r.Verdicts[0]; v.Level == preflight.Unsafe {
		return what + " (" + r.FSType + ") is no place for " + name + ": " + v.Text, nil
	}
	p.mu.Lock()
	p.passed[found.key()] = true
	p.mu.Unlock()
	return "", p.records.Put(found.key(), &found)
}
