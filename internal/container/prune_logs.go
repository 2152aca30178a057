package container

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/container/logs"
)

// OldLog is a file of a container's log that nobody writes: rotated out, or of a
// container that does not run.
type OldLog struct {
	ID, Name string // of the container
	Labels   map[string]string
	Last     bool // of the last run: what `docker logs` shows first
	File     logs.Old
}

// OldLogs lists such files, for each container the oldest first.
func (s *Service) OldLogs() ([]OldLog, error) {
	var out []OldLog
	for _, c := range s.all() {
		r := c.record()
		ended := atRest(&r)
		files, err := logs.OldFiles(s.logConfig(&r), ended)
		if err != nil {
			return nil, fmt.Errorf("list the logs of container %s: %w", r.ID, err)
		}
		for i, f := range files {
			out = append(out, OldLog{
				ID: r.ID, Name: r.Name, Labels: maps.Clone(r.Config.Labels), Last: ended && i == len(files)-1, File: f,
			})
		}
	}
	return out, nil
}

// atRest says that nobody writes the container's log, and nobody is about to.
func atRest(r *Record) bool {
	return r.Phase == Created || r.Phase == Exited || r.Phase == Dead
}

// PruneLog removes a file of a log, if it is still one that nobody writes.
// errdefs.ErrNotFound where it is not.
func (s *Service) PruneLog(o OldLog) error {
	s.mu.Lock()
	c := s.byID[o.ID]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("log of container %s: %w", o.ID, errdefs.ErrNotFound)
	}
	c.op.Lock() // it does not start meanwhile
	defer c.op.Unlock()
	r := c.record()
	if o.Last && !atRest(&r) {
		return fmt.Errorf("log of container %s is written again: %w", o.ID, errdefs.ErrNotFound)
	}
	if err := logs.RemoveOld(c.logger(), o.File); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("log of container %s was rotated meanwhile: %w", o.ID, errdefs.ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("remove a log of container %s: %w", o.ID, err)
	}
	return failpoint.Hit("container.pruneLog.afterFile")
}
