package usage

// Made is something made of parts that others may be made of, too: an image of
// layers and content.
type Made struct {
	ID    string
	Parts map[string]int64 // bytes by name
	Used  bool             // a container has it
}

// Shares is what a number of things take together.
type Shares struct {
	Total int64 // each part once
	// Reclaimable is what goes when all go that nobody uses: parts of none that is used.
	Reclaimable int64
	Unique      map[string]int64 // by ID: parts that no other has
}

// Share counts.
func Share(all []Made) Shares {
	type part struct {
		size   int64
		owners int
		used   bool
	}
	parts := map[string]part{}
	for _, m := range all {
		for name, size := range m.Parts {
			p := parts[name]
			p.size = size
			p.owners++
			p.used = p.used || m.Used
			parts[name] = p
		}
	}
	out := Shares{Unique: make(map[string]int64, len(all))}
	for _, p := range parts {
		out.Total += p.size
		if !p.used {
			out.Reclaimable += p.size
		}
	}
	for _, m := range all {
		var own int64
		for name, size := range m.Parts {
			if parts[name].owners == 1 {
				own += size
			}
		}
		out.Unique[m.ID] = own
	}
	return out
}
