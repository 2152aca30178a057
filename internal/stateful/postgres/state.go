package postgres

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/stateful"
)

// kept is what outlives the container.
type kept struct {
	// Serial counts writes. The data's mark carries it too, written second.
	Serial   uint64
	Set      string
	Mark     string
	Promised uint64
	Led      uint64 // the last epoch that it began to lead
	Held     uint64 // the last epoch whose leader it held still for
	Chain    stateful.Chain
	// Whole says that the data are a whole database; a clone that was cut short is
	// not.
	Whole bool
}

func newMark() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

const (
	stateFile = "state.json"
	markFile  = "holdfast.mark" // among the data
)

// load reads what is known of the data. Data that are not those that were left
// here count as a stranger's: they are whole, but what was promised of them is not
// known to hold.
func (s *Server) load() error {
	b, err := os.ReadFile(filepath.Join(s.c.StateDir, stateFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the member's state: %w", err)
	default:
		if err := json.Unmarshal(b, &s.kept); err != nil {
			return fmt.Errorf("read the member's state: %w", err)
		}
	}
	has, err := hasData(s.c.Data)
	if err != nil {
		return err
	}
	mark, serial, err := s.readMark()
	if err != nil {
		return err
	}
	k := &s.kept
	if k.Set != s.c.Set {
		*k = kept{Serial: k.Serial, Set: s.c.Set, Whole: k.Whole || len(b) == 0}
	}
	switch {
	case !has:
		k.Whole, k.Chain, k.Mark = false, nil, newMark()
	case len(b) > 0 && !k.Whole: // a clone was cut short
		k.Chain, k.Mark = nil, newMark()
	case mark != "" && mark == k.Mark && serial <= k.Serial && serial+1 >= k.Serial:
	default:
		k.Whole, k.Chain, k.Mark = true, nil, newMark()
	}
	return s.save()
}

// save writes what is kept. It is on disk when it returns.
func (s *Server) save() error {
	s.kept.Serial++
	b, err := json.Marshal(s.kept)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(s.c.StateDir, stateFile), b, 0o600); err != nil {
		return fmt.Errorf("keep the member's state: %w", err)
	}
	if !s.kept.Whole {
		return nil
	}
	p := filepath.Join(s.c.Data, markFile)
	if err := atomicfile.Write(p, fmt.Appendf(nil, "%s %d\n", s.kept.Mark, s.kept.Serial), 0o600); err != nil {
		return fmt.Errorf("mark the data: %w", err)
	}
	return s.own(p)
}

func (s *Server) readMark() (mark string, serial uint64, err error) {
	b, err := os.ReadFile(filepath.Join(s.c.Data, markFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("read the data's mark: %w", err)
	}
	mark, n, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	serial, err = strconv.ParseUint(n, 10, 64)
	if err != nil {
		return "", 0, nil // not one of ours: as if there were none
	}
	return mark, serial, nil
}

func hasData(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
