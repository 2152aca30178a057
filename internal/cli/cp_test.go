package cli

import (
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
)

func TestPlaces(t *testing.T) {
	for _, tc := range []struct {
		arg  string
		want place
	}{
		{"-", place{kind: inStream}},
		{"data:/x", place{inVolume, "data", "/x"}},
		{"data@before:x/.", place{inVolume, "data@before", "x/."}},
		{"data:", place{inVolume, "data", ""}},
		{"container:web:/x:y", place{inContainer, "web", "/x:y"}},
		{"container:/x", place{inVolume, "container", "/x"}}, // a volume may be called so
		{"container:/x:y", place{inVolume, "container", "/x:y"}},
		{"/a:b", place{onHost, "", "/a:b"}},
		{"./a:b", place{onHost, "", "./a:b"}},
		{"../a", place{onHost, "", "../a"}},
		{"file", place{onHost, "", "file"}},
	} {
		if got := splitPlace(tc.arg); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.arg, got, tc.want)
		}
	}
}

func TestTopRows(t *testing.T) {
	at := time.Unix(1000, 0)
	looked := func(seconds int, sizes map[string]int64) topLook {
		l := topLook{items: map[string]api.UsageItem{}, users: map[string][]string{"fast": {"db"}}}
		for n, b := range sizes {
			l.items[n] = api.UsageItem{Name: n, Bytes: b, Files: b / 100, MeasuredAt: at.Add(time.Duration(seconds) * time.Second)}
		}
		return l
	}
	first := looked(0, map[string]int64{"still": 900, "slow": 100, "fast": 100, "shrinks": 1000, "gone": 5, "earlier": 0})
	last := looked(10, map[string]int64{"still": 900, "slow": 100, "fast": 100, "shrinks": 1000, "earlier": 700})
	now := looked(12, map[string]int64{"still": 900, "slow": 110, "fast": 2100, "shrinks": 500, "earlier": 700, "new": 3})
	var b strings.Builder
	if err := writeTop(&b, topRows(first, last, now)); err != nil {
		t.Fatal(err)
	}
	want := `VOLUME    SIZE    RATE      GROWN    FILES       CONTAINERS
fast      2.1kB   +1kB/s    +2kB     21 (+20)    db
shrinks   500B    -250B/s   -500B    5 (-5)      -
slow      110B    +5B/s     +10B     1           -
earlier   700B    -         +700B    7 (+7)      -
new       3B      -         +3B      0           -
still     900B    -         +0B      9           -
`
	got := b.String()
	for i, line := range strings.Split(want, "\n") {
		if g := strings.Join(strings.Fields(strings.Split(got, "\n")[i]), " "); g != strings.Join(strings.Fields(line), " ") {
			t.Errorf("got %q, want %q", g, line)
		}
	}
	// What was measured once only has no rate.
	if r := topRows(now, now, now)[0]; r.Rate != 0 || r.Grown != 0 {
		t.Errorf("%+v", r)
	}
}
