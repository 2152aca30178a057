package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// exitLost is the exit code of a container whose end nobody saw, as after a reboot.
	exitLost = 255
	// restoreWidth is how many containers are looked after side by side.
	restoreWidth = 8
)

// found is what the machine knows of a container.
type found struct {
	task  *TaskState
	layer bool
}

// fate is what Restore does with a container.
type fate string

const (
	adopt  fate = "adopt"  // it runs: take it over
	settle fate = "settle" // it ended while nobody looked: handle the exit
	undo   fate = "undo"   // a start did not come through: clear it away
	leave  fate = "leave"  // it does not run, and that is right
	erase  fate = "erase"  // its removal, or its creation, was cut short
)

// decideFate compares a record with the machine.
func decideFate(r *Record, f found) fate {
	if r.Phase == Removing || r.Phase == Dead {
		return erase
	}
	// Record and layer of a new container are made side by side, and those of one
	// with --rm go without a note. Any other one without a layer lost it by a
	// fault outside of us: what it was is kept for its owner to see.
	if !f.layer && (r.HostConfig.AutoRemove || (r.Phase == Created && r.StartedAt.IsZero())) {
		return erase
	}
	running := f.task != nil && (f.task.Status == TaskRunning || f.task.Status == TaskPaused)
	switch r.Phase {
	case Running, Paused, Stopping:
		if running {
			return adopt
		}
		return settle
	case Starting:
		switch {
		case running:
			return adopt
		case r.HostConfig.AutoRemove:
			return erase // whether it ran or not: nothing of it shall stay
		case f.task != nil && f.task.Status == TaskCreated:
			return undo
		}
		// It ran and ended, or was lost with the machine's last boot, or was
		// about to be made. The last takes milliseconds, so that is not assumed.
		return settle
	default:
	}
	if f.task != nil {
		return undo // made by a start that was not written down
	}
	if r.HostConfig.AutoRemove && !r.StartedAt.IsZero() {
		return erase
	}
	return leave
}

// Restore reads the records and makes them and the machine agree again after
// the daemon was away. Call it once, before Run and before any other verb.
func (s *Service) Restore(ctx context.Context) error {
	s.openEvents()
	recs, err := s.d.Records.All()
	if err != nil {
		return fmt.Errorf("read container records: %w", err)
	}
	tasks, err := s.d.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	layers, err := s.d.Rootfs.List(ctx)
	if err != nil {
		return fmt.Errorf("list layers: %w", err)
	}
	slices.SortFunc(recs, func(a, b *Record) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	known := map[string]bool{}
	for _, r := range recs {
		known[r.ID] = true
		for _, id := range imageLayers(r) {
			known[id] = true
		}
		s.mu.Lock()
		s.byID[r.ID] = &Container{rec: *r}
		s.byName[r.Name] = r.ID
		s.mu.Unlock()
	}
	for _, r := range recs {
		s.nameLinks(r.Name, r.Links)
	}
	var g errgroup.Group
	g.SetLimit(restoreWidth)
	for _, c := range s.all() {
		r := c.record()
		f := found{layer: slices.Contains(layers, r.ID)}
		if t, ok := tasks[r.ID]; ok {
			f.task = &t
		}
		g.Go(func() error { s.restoreOne(ctx, c, f); return nil })
	}
	_ = g.Wait() // its functions return no errors: one bad container must not keep the daemon down
	s.sweep(ctx, known, tasks, layers)
	return nil
}

func (s *Service) restoreOne(ctx context.Context, c *Container, f found) {
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	what := decideFate(&r, f)
	log := s.d.Log.With(logkey.Container, r.ID)
	if !f.layer && what != erase {
		log.Error("writable layer of container is lost")
	}
	if what != leave {
		log.Info("container restored", logkey.From, string(r.Phase), logkey.To, string(what))
	}
	for _, m := range r.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		if err := s.d.Volumes.Reattach(ctx, m.Name, r.ID, what == adopt); err != nil && what != erase {
			log.Warn("volume of container not found again", logkey.Volume, m.Name, logkey.Err, err)
		}
	}
	var err error
	switch what {
	case adopt:
		err = s.adopt(ctx, c, f.task)
	case settle:
		s.settle(ctx, c, f.task)
	case undo:
		err = s.undoStart(ctx, c)
	case erase:
		s.tearDown(ctx, c, true)
		s.set(c, Exited, nil)
		err = s.remove(ctx, c, r.RemoveVolumes || r.HostConfig.AutoRemove)
	case leave:
		// Mounts and network of a start that had not come to a task.
		s.tearDown(ctx, c, false)
		if r.Phase == Restarting {
			s.set(c, Exited, nil)
			err = s.save(c)
		}
	}
	if err != nil {
		log.Error("container not restored", logkey.Why, string(what), logkey.Err, err)
	}
}

// set puts a container into the phase that the machine shows. Only Restore
// may: everyone else goes through the gate.
func (s *Service) set(c *Container, p Phase, change func(*Record)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Phase = p
	if change != nil {
		change(&c.rec)
	}
}

// adopt takes over a container that runs.
func (s *Service) adopt(ctx context.Context, c *Container, task *TaskState) error {
	r := c.record()
	phase := Running
	if task.Status == TaskPaused {
		phase = Paused
	}
	s.set(c, phase, func(r *Record) {
		r.Pid = task.Pid
		if r.Health == nil {
			r.Health = newHealth(r)
		}
	})
	c.mu.Lock()
	c.exited = make(chan struct{})
	c.mu.Unlock()

	// Each of these can fail alone; the container runs on without it.
	var errs []error
	_, err := s.d.Rootfs.Mount(ctx, r.ID)
	errs = append(errs, err, s.reattach(ctx, c))
	if r.Sandbox != nil && r.HostConfig.NetworkMode.IsPrivate() {
		errs = append(errs, s.d.Networks.Restore(ctx, s.sandboxRequest(&r), *r.Sandbox))
	}
	if phase == Running {
		s.startHealth(c) //nolint:contextcheck // the checks outlive Restore
	}
	if r.Phase == Stopping {
		s.spawn(func() { s.finishStop(c) })
	}
	return errors.Join(errs...)
}

// reattach joins the streams of a task to a log again.
func (s *Service) reattach(ctx context.Context, c *Container) error {
	r := c.record()
	hub, err := s.openLog(c, false)
	if err != nil {
		return err
	}
	streams, err := s.d.Runtime.Reattach(ctx, r.ID, "", r.Config.OpenStdin, r.Config.Tty)
	hub.Start(streams) //nolint:contextcheck // takes them over for the rest of the run
	return err
}

// finishStop goes on with a stop that an earlier daemon began.
func (s *Service) finishStop(c *Container) {
	r := c.record()
	sig, limit, err := s.stopWish(r, "", nil)
	if err == nil {
		err = s.stop(s.life, c, sig, limit)
	}
	if err != nil {
		s.d.Log.Error("stop begun by an earlier daemon not finished", logkey.Container, r.ID, logkey.Err, err)
	}
}

// settle handles the exit of a container that ended while the daemon was away.
func (s *Service) settle(ctx context.Context, c *Container, task *TaskState) {
	r := c.record()
	exit := Exit{Code: exitLost, At: s.d.Clock.Now()}
	if task != nil && task.Status == TaskStopped {
		exit = task.Exit
		// What it wrote last may still lie in its pipes.
		if err := s.reattach(ctx, c); err != nil {
			s.d.Log.Warn("last output of container not found", logkey.Container, r.ID, logkey.Err, err)
		}
	}
	c.mu.Lock()
	c.noRestart = r.Phase == Stopping
	c.mu.Unlock()
	s.set(c, Running, nil)
	s.finish(ctx, c, exit)
}

// undoStart clears away a start that did not come through.
func (s *Service) undoStart(ctx context.Context, c *Container) error {
	s.tearDown(ctx, c, false)
	r := c.record()
	if r.Phase != Starting {
		if r.Phase == Restarting {
			s.set(c, Exited, nil)
		}
		return nil
	}
	to := Exited
	if r.FinishedAt.IsZero() {
		to = Created
	}
	s.set(c, to, func(r *Record) {
		r.Sandbox, r.Pid = nil, 0
		if to == Created {
			r.StartedAt = r.FinishedAt
		}
	})
	return s.save(c)
}

// ourID is what a container's folder is called.
var ourID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sweep removes what belongs to no record: tasks, networks, layers, folders.
func (s *Service) sweep(ctx context.Context, known map[string]bool, tasks map[string]TaskState, layers []string) {
	try := func(id, what string, err error) {
		if err != nil && !errdefs.IsNotFound(err) {
			s.d.Log.Warn("orphan not removed", logkey.Container, id, logkey.Why, what, logkey.Err, err)
		}
	}
	for id := range tasks {
		if known[id] {
			continue
		}
		s.d.Log.Info("task without a record removed", logkey.Container, id)
		try(id, "task", s.d.Runtime.Delete(ctx, id, true))
		try(id, "network", s.d.Networks.Leave(ctx, id))
	}
	for _, id := range layers {
		if known[id] {
			continue
		}
		s.d.Log.Info("layer without a record removed", logkey.Container, id)
		try(id, "network", s.d.Networks.Leave(ctx, id))
		try(id, "layer", s.d.Rootfs.Remove(ctx, id))
	}
	try("", "sources", s.sweepSources())
	for _, dir := range []string{s.d.Settings.Dir, s.d.Settings.RunDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			try("", "folders", err)
		}
		for _, e := range entries {
			if id := e.Name(); !known[id] && ourID.MatchString(id) {
				try(id, "shm", s.dropShm(id))
				try(id, "folder", os.RemoveAll(filepath.Join(dir, id)))
			}
		}
	}
}

// boot starts the containers that shall run whenever the daemon does; those
// that share another's namespaces come after the others.
func (s *Service) boot() {
	var own, sharing []*Container
	for _, c := range s.all() {
		r := c.record()
		if (r.Phase != Exited && r.Phase != Created) || !decideBoot(r) {
			continue
		}
		h := r.HostConfig
		if h.NetworkMode.IsContainer() || h.PidMode.IsContainer() || h.IpcMode.IsContainer() {
			sharing = append(sharing, c)
		} else {
			own = append(own, c)
		}
	}
	for _, batch := range [][]*Container{own, sharing} {
		var g errgroup.Group
		g.SetLimit(restoreWidth)
		for _, c := range batch {
			g.Go(func() error {
				c.op.Lock()
				defer c.op.Unlock()
				// Somebody may have been faster.
				if r := c.record(); (r.Phase != Exited && r.Phase != Created) || s.life.Err() != nil {
					return nil
				}
				if err := s.launch(s.life, c, false); err != nil {
					s.d.Log.Error("container not started with the daemon", logkey.Container, c.record().ID, logkey.Err, err)
				}
				return nil
			})
		}
		_ = g.Wait() // its functions return no errors: they are logged above
	}
}
