package container

import (
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// validName is what Docker allows as a container name.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func randomID(r io.Reader) (string, error) {
	b := make([]byte, 32)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("make container ID: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// reserveName takes the name for id, or makes one up where name is empty. The
// name stays taken until releaseName.
func (s *Service) reserveName(id, name string) (string, error) {
	if name == "" {
		return s.reserveRandomName(id)
	}
	bare := strings.TrimPrefix(name, "/")
	if !validName.MatchString(bare) {
		return "", fault.New(errdefs.ErrInvalidArgument,
			"Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if holder, taken := s.byName[bare]; taken {
		return "", fault.New(errdefs.ErrConflict, "Conflict. The container name %q is already in use by container %q. "+
			"You have to remove (or rename) that container to be able to reuse that name.", "/"+bare, holder)
	}
	s.byName[bare] = id
	return bare, nil
}

// RandomName makes a name up as containers get it, for others that need one.
func RandomName(r io.Reader) (string, error) {
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", fmt.Errorf("make a name: %w", err)
	}
	return adjectives[int(b[0])%len(adjectives)] + "_" + surnames[int(b[1])%len(surnames)], nil
}

func (s *Service) reserveRandomName(id string) (string, error) {
	var b [3]byte
	for try := range 7 {
		if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
			return "", fmt.Errorf("make container name: %w", err)
		}
		name := adjectives[int(b[0])%len(adjectives)] + "_" + surnames[int(b[1])%len(surnames)]
		switch {
		case try == 6:
			name = id[:12]
		case try > 0:
			name += fmt.Sprint(b[2] % 10)
		}
		s.mu.Lock()
		_, taken := s.byName[name]
		if !taken {
			s.byName[name] = id
		}
		s.mu.Unlock()
		if !taken {
			return name, nil
		}
	}
	return "", fault.New(errdefs.ErrConflict, "no free container name found")
}

func (s *Service) releaseName(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[name] == id {
		delete(s.byName, name)
	}
}

var adjectives = [...]string{
	"able", "airy", "alert", "amber", "ample", "apt", "astute", "awake", "balmy", "bold",
	"brave", "breezy", "bright", "brisk", "calm", "candid", "careful", "cheery", "civil", "clear",
	"clever", "cosy", "crisp", "curious", "daring", "deft", "dewy", "eager", "earnest", "easy",
	"even", "exact", "fair", "faithful", "fearless", "fine", "firm", "fleet", "fluent", "fond",
	"frank", "fresh", "gallant", "genial", "gentle", "giddy", "glad", "golden", "graceful", "grand",
	"hale", "handy", "hardy", "hearty", "honest", "hopeful", "humble", "jaunty", "jolly", "jovial",
	"joyful", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mighty",
	"mild", "mindful", "modest", "neat", "nimble", "noble", "novel", "open", "patient", "peaceful",
	"placid", "plucky", "polite", "prompt", "proud", "prudent", "quick", "quiet", "rapid", "ready",
	"robust", "rosy", "serene", "sharp", "silent", "sincere", "smooth", "snug", "sober", "solid",
	"spry", "stable", "steady", "stoic", "sturdy", "sunny", "sure", "swift", "tender", "tidy",
	"tranquil", "trusty", "upbeat", "valiant", "vivid", "warm", "wary", "willing", "wise", "witty",
}

// surnames of people who built what this stands on: computing, networks, ships and harbours.
var surnames = [...]string{
	"aiken", "allen", "amdahl", "antonelli", "atanasoff", "babbage", "backus", "baran", "bartik", "bauer",
	"bell", "bellman", "bernerslee", "boole", "brooks", "brunel", "cerf", "chandler", "church", "clarke",
	"codd", "conway", "cook", "cray", "curry", "dahl", "davies", "dijkstra", "eckert", "engelbart",
	"ericsson", "erlang", "feinler", "floyd", "gauss", "goldberg", "goldstine", "gray", "hamilton", "hamming",
	"harrison", "hennessy", "hoare", "holberton", "hollerith", "hopper", "huffman", "iverson", "jacquard", "johnson",
	"kahn", "karp", "kay", "keller", "kilburn", "kleene", "knuth", "lamport", "leibniz", "licklider",
	"liskov", "lovelace", "mauchly", "mccarthy", "meltzer", "metcalfe", "milner", "minsky", "moore", "napier",
	"naur", "neumann", "noether", "noyce", "nygaard", "parnas", "pascal", "patterson", "perlis", "perlman",
	"postel", "rabin", "randell", "ritchie", "roberts", "sammet", "scott", "shannon", "shaw", "simon",
	"snyder", "spence", "stallman", "steele", "strachey", "sutherland", "tarjan", "taylor", "telford", "thompson",
	"turing", "ulam", "vaughan", "wescoff", "wheeler", "wiener", "wilkes", "wilkinson", "wirth", "zuse",
}
