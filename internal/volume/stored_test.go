package volume

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestWhatIsStoredBesideVolumes(t *testing.T) {
	r := newTrashRig(t)
	r.take(t, "one")
	r.take(t, "two")
	must(t, r.Protect(t.Context(), "data", "two", true))
	list := r.StoredSnapshots()
	if len(list) != 2 || list[0].ID != "data@one" || list[0].Kept != "" || list[1].Kept != "it is protected" || list[0].Volume != "data" || len(list[0].Dirs) != 1 {
		t.Fatalf("%+v", list)
	}
	// A plan is about the snapshot that it saw, not about one of the same name.
	was := list[0]
	must(t, r.RemoveSnapshot(t.Context(), "data", "one"))
	r.clock.now.Add(10)
	r.take(t, "one")
	if err := r.PruneSnapshot(t.Context(), was); !errdefs.IsNotFound(err) {
		t.Errorf("another one of the name: %v", err)
	}
	if err := r.PruneSnapshot(t.Context(), list[1]); !errdefs.IsConflict(err) {
		t.Errorf("a protected one: %v", err)
	}
	for _, s := range r.StoredSnapshots() {
		if s.ID == "data@one" {
			must(t, r.PruneSnapshot(t.Context(), s))
		}
	}
	if got := r.names(t); got != "two" {
		t.Errorf("left: %s", got)
	}
	must(t, r.Protect(t.Context(), "data", "two", false))
	must(t, r.Remove(t.Context(), "data", false))
	trash := r.StoredTrash()
	if len(trash) != 1 || trash[0].Name != "data" || trash[0].Labels["a"] != "b" || len(trash[0].Dirs) != 2 || len(r.StoredSnapshots()) != 0 {
		t.Errorf("%+v", trash)
	}
}
