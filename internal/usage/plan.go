package usage

// Candidate is something that may go, as its owner names it.
type Candidate struct {
	Kind string
	ID   string
	Name string
	Why  string
	Size int64 // as lists show it
	Own  int64 // what is free when it goes, in any case
	// Parts are bytes by name that others may have, too: each is free when the
	// last of its owners goes.
	Parts map[string]int64
}

// Frees tells for each candidate what is free after it went, those before it
// having gone, too. Parts of things that stay, and pinned ones, are not free; of
// what several candidates have the last frees it.
func Frees(all []Candidate, stay []Made, pinned func(part string) bool) []int64 {
	kept := map[string]bool{}
	for _, m := range stay {
		for p := range m.Parts {
			kept[p] = true
		}
	}
	last := map[string]int{}
	for i, c := range all {
		for p := range c.Parts {
			last[p] = i
		}
	}
	out := make([]int64, len(all))
	for i, c := range all {
		out[i] = max(0, c.Own)
		for p, n := range c.Parts {
			if last[p] == i && !kept[p] && !pinned(p) {
				out[i] += n
			}
		}
	}
	return out
}
