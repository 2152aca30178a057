package stateful

import (
	"fmt"
	"slices"
)

// Unprotected says why the loss of the set's leader, now, would end in a wait or a
// loss and not in another leader with every acknowledged row; "" where it would not.
// states are those of the members that answer.
func (s *Set) Unprotected(states map[string]State) string {
	r := s.Record
	leader := MemberOf(r.Leader)
	led := states[leader]
	switch {
	case leader == "":
		return "it has no leader"
	case led.Phase != Leading || led.Epoch != r.Epoch || s.Chain.Epoch() != r.Epoch:
		return leader + " does not take writes yet"
	case !s.Mode.Sync():
		return "rows are acknowledged by the leader alone (synchronous=off)"
	case len(r.Sync.Members) == 0 || r.Sync.Need > len(r.Sync.Members):
		return leader + " alone has every acknowledged row"
	}
	follow := 0
	for _, m := range r.Sync.Members {
		if slices.ContainsFunc(led.Streams, func(f Stream) bool { return f.Identity == m }) {
			follow++
		}
	}
	if follow < r.Sync.Need {
		return fmt.Sprintf("a new leader would need %d of %d members, and %d follow", r.Sync.Need, len(r.Sync.Members), follow)
	}
	return ""
}
