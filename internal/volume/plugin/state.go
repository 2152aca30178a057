package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"holdfast.dev/holdfast/internal/base/atomicfile"
)

// phase is where a volume's mount is. It is written before the plugin is asked.
type phase string

const (
	mounting   phase = "mounting" // the plugin may have been told
	mounted    phase = "mounted"
	unmounting phase = "unmounting" // the plugin may have been told
)

// mount is one volume that a plugin was told to mount, and not yet to unmount.
type mount struct {
	Phase phase
	Path  string `json:",omitempty"`
	Stamp string `json:",omitempty"` // of the plugin that was told; empty where it has none
}

// state is the mounts of all plugins, in a file.
type state struct {
	path string
	boot string // of the machine: mounts do not outlive it

	mu     sync.Mutex                  // guards mounts; held while the file is written
	mounts map[string]map[string]mount // plugin, volume
}

type stateFile struct {
	Boot   string
	Mounts map[string]map[string]mount
}

// openState reads the file. After a reboot nothing is mounted any more.
func openState(path, boot string) (*state, error) {
	s := &state{path: path, boot: boot, mounts: map[string]map[string]mount{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what volume plugins have mounted: %w", err)
	}
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("read what volume plugins have mounted: %s: %w", path, err)
	}
	if f.Boot == boot && f.Mounts != nil {
		s.mounts = f.Mounts
	}
	return s, nil
}

func (s *state) get(plugin, volume string) (mount, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.mounts[plugin][volume]
	return m, ok
}

func (s *state) set(plugin, volume string, m mount) error {
	return s.change(func(all map[string]map[string]mount) {
		if all[plugin] == nil {
			all[plugin] = map[string]mount{}
		}
		all[plugin][volume] = m
	})
}

func (s *state) drop(plugin, volume string) error {
	if _, ok := s.get(plugin, volume); !ok {
		return nil
	}
	return s.change(func(all map[string]map[string]mount) {
		delete(all[plugin], volume)
		if len(all[plugin]) == 0 {
			delete(all, plugin)
		}
	})
}

// change writes the file and then has it so.
func (s *state) change(do func(map[string]map[string]mount)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]map[string]mount{}
	for p, vs := range s.mounts {
		next[p] = maps.Clone(vs)
	}
	do(next)
	b, err := json.Marshal(stateFile{s.boot, next})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path, b, 0o600); err != nil {
		return fmt.Errorf("keep what volume plugins have mounted: %w", err)
	}
	s.mounts = next
	return nil
}
