package buildkit

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/build"
)

// fakeLedger keeps records in memory and counts what is written.
type fakeLedger struct {
	mu    sync.Mutex // guards all
	recs  map[string]Kept
	wrote int
	fail  error
}

func (f *fakeLedger) Put(id string, k *Kept) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.wrote++
	f.recs[id] = *k
	return nil
}

func (f *fakeLedger) Delete(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.recs, id)
	return f.fail
}

func (f *fakeLedger) All() ([]*Kept, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*Kept
	for _, k := range f.recs {
		out = append(out, &k)
	}
	return out, nil
}

func known(c *counted) (ids []string, behind bool) {
	list, behind := c.list()
	for _, k := range list {
		ids = append(ids, k.ID)
	}
	return ids, behind
}

func TestCacheIsPutDown(t *testing.T) {
	to := &fakeLedger{recs: map[string]Kept{}}
	again := func() *counted {
		t.Helper()
		c, err := newCounted(to)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rec := func(id string, size int64) Kept {
		used := time.Unix(size, 0)
		return Kept{CacheRecord: build.CacheRecord{ID: id, Size: size, LastUsedAt: &used, InUse: true, Shared: true}, Chain: "sha256:aa"}
	}
	c := again()
	if _, behind := c.list(); !behind || c.unknown() == nil {
		t.Error("what was never counted is known")
	}
	if err := c.opening(); err != nil {
		t.Fatal(err)
	}
	if err := c.replace([]Kept{rec("b", 2), rec("a", 1)}, false); err != nil {
		t.Fatal(err)
	}
	if ids, behind := known(c); !slices.Equal(ids, []string{"a", "b"}) || !behind || c.unknown() != nil {
		t.Errorf("known: %v, behind %v", ids, behind)
	}
	if k := to.recs["a"]; k.InUse || k.Shared {
		t.Errorf("put down what holds for a moment only: %+v", k)
	}
	// A crash now: known, but behind.
	if ids, behind := known(again()); len(ids) != 2 || !behind {
		t.Errorf("after a crash: %v, behind %v", ids, behind)
	}
	// Only what differs is written, and what went is gone.
	to.wrote = 0
	if err := c.replace([]Kept{rec("b", 2), rec("c", 3)}, true); err != nil {
		t.Fatal(err)
	}
	if to.wrote != 2 { // c and the mark
		t.Errorf("wrote %d", to.wrote)
	}
	c = again()
	if ids, behind := known(c); !slices.Equal(ids, []string{"b", "c"}) || behind {
		t.Errorf("after an orderly end: %v, behind %v", ids, behind)
	}
	if err := c.opening(); err != nil {
		t.Fatal(err)
	}
	if _, behind := known(again()); !behind {
		t.Error("a BuildKit that is open may change the cache")
	}
	// What could not be written leaves no mark that it was.
	to.fail = errors.New("disk on fire")
	if err := c.replace([]Kept{rec("d", 4)}, true); err == nil {
		t.Error("a failure was not told")
	}
	to.fail = nil
	if _, behind := known(again()); !behind {
		t.Error("marked as true without having been written")
	}
	// An empty cache is known to be empty.
	if err := c.replace(nil, true); err != nil {
		t.Fatal(err)
	}
	if c := again(); c.unknown() != nil {
		t.Error("an empty cache is not known")
	}
}
