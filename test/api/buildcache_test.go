package api

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"holdfast.dev/holdfast/internal/testkit"
)

// cacheRecord is a record of the build cache, by whoever tells it.
type cacheRecord struct {
	ID, Type, Description string
	Parents               []string `json:" Parents"` // as Docker spells it
	Size                  int64
	Shared, InUse         bool
	UsageCount            int
}

// told is the cache as `system df` tells it.
func toldCache(d *testkit.Daemon) []cacheRecord {
	var df struct{ BuildCache []cacheRecord }
	d.GetJSON("/v1.50/system/df?type=build-cache", &df)
	return inOrder(df.BuildCache)
}

func inOrder(list []cacheRecord) []cacheRecord {
	for i := range list {
		slices.Sort(list[i].Parents)
	}
	slices.SortFunc(list, func(a, b cacheRecord) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// buildKits is BuildKit's own answer, by its own protocol; asking opens it.
func buildKits(t *testing.T, d *testkit.Daemon) []cacheRecord {
	t.Helper()
	c, err := bkclient.New(t.Context(), "", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return d.Client().DialHijack(ctx, "/grpc", "h2c", nil)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []cacheRecord
	for _, u := range list {
		out = append(out, cacheRecord{
			ID: u.ID, Type: string(u.RecordType), Description: u.Description, Parents: u.Parents,
			Size: u.Size, Shared: u.Shared, InUse: u.InUse, UsageCount: u.UsageCount,
		})
	}
	return inOrder(out)
}

func sameCache(a, b []cacheRecord) string {
	show := func(list []cacheRecord) (out []string) {
		for _, r := range list {
			out = append(out, fmt.Sprintf("%s %s %q %v size %d shared %v used %v, %d times", r.ID, r.Type, r.Description, r.Parents, r.Size, r.Shared, r.InUse, r.UsageCount))
		}
		return out
	}
	was, is := show(a), show(b)
	var diff []string
	for _, l := range was {
		if !slices.Contains(is, l) {
			diff = append(diff, "told: "+l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			diff = append(diff, "BuildKit: "+l)
		}
	}
	return strings.Join(diff, "\n")
}

func openings(d *testkit.Daemon) int { return strings.Count(d.Logs(), "BuildKit opened") }

// What is told of the build cache without BuildKit is what BuildKit says when it is
// asked: after builds, prunes, changes of images, and whatever end of the daemon.
// HF_CHAOS_SEED repeats a run.
func TestBuildCacheLedgerIsTrue(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the classic builder has no cache of its own")
	d := own(t, testkit.Options{})
	rng := rand.New(rand.NewPCG(chaosSeed(t), 11))
	dockerfile := func() string {
		return fmt.Sprintf("FROM %s AS a\nRUN --mount=type=cache,target=/c%d head -c %d /dev/zero > /c%[2]d/f && head -c %d /dev/zero > /f\nFROM busybox\nCOPY --from=a /f /f\nRUN echo %d > /n\n",
			[]string{"busybox", "fat:1"}[rng.IntN(2)], rng.IntN(2), rng.IntN(300_000), rng.IntN(3)*100_000, rng.IntN(3))
	}
	load := func() {
		d.Load(testkit.ImageSpec{Ref: "fat:1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"fat": {Body: strings.Repeat("fat ", 1<<16)}}.Tar()}})
	}
	load()
	for i := range 24 {
		switch rng.IntN(8) {
		case 0, 1, 2, 3:
			d.DockerResult("build", "-q", "-t", "made"+strconv.Itoa(rng.IntN(2)), buildDir(t, map[string]string{"Dockerfile": dockerfile()})) // refused without its base
		case 4:
			d.DockerResult("rmi", []string{"fat:1", "made0", "made1"}[rng.IntN(3)])
			d.Docker("image", "prune", "-f")
		case 5:
			load()
		case 6:
			d.Docker(append([]string{"builder", "prune", "-f"}, [][]string{nil, {"-a"}, {"--filter", "type=exec.cachemount"}}[rng.IntN(3)]...)...)
		case 7: // a build that its daemon does not survive
			cmd := d.Command(t.Context(), "docker", "build", "-q", buildDir(t, map[string]string{"Dockerfile": dockerfile() + "RUN sleep 60\n"}))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			d.Eventually(settle, "the build went some way", func() (bool, string) { return rng.IntN(30) == 0, "" })
			d.KillAndStart()
			_ = cmd.Wait() // the daemon died under it
			d.Eventually(settle, "what the crash left is counted", func() (bool, string) {
				diff := sameCache(toldCache(d), buildKits(t, d))
				return diff == "", diff
			})
		}
		if i%4 != 3 {
			continue
		}
		d.Restart()
		before := openings(d)
		told := toldCache(d)
		plan(t, d, "builder", "prune", "-a")
		if code, body := d.API("GET", "/holdfast/v1/dashboard/", nil); code != 200 {
			t.Fatalf("dashboard: %d %s", code, body)
		}
		d.Holdfast("storage", "top")
		if n := openings(d); n != before {
			t.Errorf("step %d: telling of the cache opened BuildKit %d times", i, n-before)
		}
		if diff := sameCache(told, buildKits(t, d)); diff != "" {
			t.Errorf("step %d:\n%s", i, diff)
		}
	}
	// A crash long after the last build: known at once, and then counted again.
	d.Docker("build", "-q", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo last > /last\n"}))
	d.Eventually(settle, "the build is put down", func() (bool, string) {
		diff := sameCache(toldCache(d), buildKits(t, d))
		return diff == "", diff
	})
	want := toldCache(d)
	d.KillAndStart()
	d.Eventually(time.Minute, "all is told after a crash", func() (bool, string) {
		diff := sameCache(toldCache(d), want)
		return diff == "", diff
	})
}
