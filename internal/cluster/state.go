package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/internal/base/atomicfile"
)

// settings are what a node needs to start again; the rest is in SwarmKit's own
// folder.
type settings struct {
	ListenAddr      string
	AdvertiseAddr   string // host and port
	DataPathAddr    string
	DefaultAddrPool []netip.Prefix
	SubnetSize      uint32
	DataPathPort    uint32
	Leaving         bool // a leave began: finish it
}

func (s *Service) statePath() string { return filepath.Join(s.d.Dir, "node.json") }
func (s *Service) nodeDir() string   { return filepath.Join(s.d.Dir, "swarmkit") }

// load reads the settings; nil means that this node is in no swarm.
func (s *Service) load() (*settings, error) {
	b, err := os.ReadFile(s.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the swarm's state: %w", err)
	}
	var out settings
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("read the swarm's state %s: %w", s.statePath(), err)
	}
	return &out, nil
}

func (s *Service) save(set settings) error {
	b, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.statePath(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the swarm's state: %w", err)
	}
	return nil
}

// wipe removes everything of a swarm; node.json goes last, so that a crash
// between leaves a leave that is gone on with.
func (s *Service) wipe() error {
	if err := os.RemoveAll(s.nodeDir()); err != nil {
		return fmt.Errorf("remove the swarm's state: %w", err)
	}
	if err := os.RemoveAll(s.d.Dir); err != nil {
		return fmt.Errorf("remove the swarm's state: %w", err)
	}
	return nil
}
