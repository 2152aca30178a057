package buildkit

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/filters"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
)

const (
	baseChain  = digest.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	builtChain = digest.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

// cached is a base image's layer, a step that was exported on it, one that was
// not, and a layer of an image that is gone.
func cached() ([]*bkclient.UsageInfo, map[string]layer) {
	list := []*bkclient.UsageInfo{
		{ID: "base", Size: 1000, RecordType: bkclient.UsageRecordTypeRegular},
		{ID: "built", Size: 100, Parents: []string{"base"}, RecordType: bkclient.UsageRecordTypeRegular},
		{ID: "step", Size: 10, Parents: []string{"base"}, RecordType: bkclient.UsageRecordTypeRegular},
		{ID: "gone", Size: 1, RecordType: bkclient.UsageRecordTypeCacheMount},
	}
	return list, map[string]layer{
		"base":  {baseChain, snapshot.LayerSnapshotID(baseChain)},
		"built": {builtChain, "random"},
		"step":  {"", "random2"},
		"gone":  {"sha256:cc", "random3"},
	}
}

func TestWhatIsSharedWithImages(t *testing.T) {
	list, layers := cached()
	got := shared(list, map[digest.Digest]bool{baseChain: true, builtChain: true}, func(id string) layer { return layers[id] })
	if want := map[string]sharing{"base": oneSnapshot, "built": ownSnapshot}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPruningSparesWhatImagesNeed(t *testing.T) {
	list, layers := cached()
	of := shared(list, map[digest.Digest]bool{baseChain: true, builtChain: true}, func(id string) layer { return layers[id] })
	for _, u := range list {
		u.Shared = of[u.ID] == oneSnapshot
	}
	for _, c := range []struct {
		what              string
		in                bkclient.PruneInfo
		goes              string
		reserved, maxUsed int64
	}{
		{"plain", bkclient.PruneInfo{}, "step gone", 0, 0},
		{"all", bkclient.PruneInfo{All: true}, "base built step gone", 0, 0},
		{"all of a type", bkclient.PruneInfo{All: true, Filter: []string{"type==exec.cachemount"}}, "gone", 0, 0},
		{"all on a parent", bkclient.PruneInfo{All: true, Filter: []string{"parent==base"}}, "built step", 0, 0},
		{"all that is shared", bkclient.PruneInfo{All: true, Filter: []string{"shared"}}, "base", 0, 0},
		{"all that is private", bkclient.PruneInfo{All: true, Filter: []string{"private"}}, "built step gone", 0, 0},
		{"all to a limit", bkclient.PruneInfo{All: true, MaxUsedSpace: 50}, "built step gone", 1000, 1050},
		{"to a reserve", bkclient.PruneInfo{ReservedSpace: 50}, "step gone", 1050, 0},
		{"enough is free", bkclient.PruneInfo{All: true, MinFreeSpace: 500}, "", 0, 0},
		{"not enough is free", bkclient.PruneInfo{All: true, MinFreeSpace: 501}, "built step gone", 1000, 0},
		{"nothing matches", bkclient.PruneInfo{Filter: []string{"id==base"}}, "", 0, 0},
	} {
		got, some, err := spare(c.in, list, of, 500)
		if err != nil {
			t.Fatal(err)
		}
		var goes []string
		if some {
			f, err := filters.ParseAll(got.Filter...)
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			for _, u := range list {
				if f.Match(fields(u)) {
					goes = append(goes, u.ID)
				}
			}
		}
		if want := strings.Fields(c.goes); !slices.Equal(goes, want) || some && (got.ReservedSpace != c.reserved || got.MaxUsedSpace != c.maxUsed) {
			t.Errorf("%s: %q of %+v goes, want %q with %d reserved, %d at most", c.what, goes, got, want, c.reserved, c.maxUsed)
		}
	}
	if _, _, err := spare(bkclient.PruneInfo{Filter: []string{"==="}}, list, of, 0); err == nil {
		t.Error("a broken filter was taken")
	}
}
