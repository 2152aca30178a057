package image

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMadeBy(t *testing.T) {
	step := func(by string) ocispec.History { return ocispec.History{CreatedBy: by} }
	empty := ocispec.History{CreatedBy: "ENV", EmptyLayer: true}
	for _, c := range []struct {
		name   string
		steps  []ocispec.History
		layers int
		want   []string
	}{
		{"steps with and without layers", []ocispec.History{step("a"), empty, step("b"), empty}, 2, []string{"a", "b"}},
		{"no history", nil, 2, []string{"", ""}},
		{"less history than layers", []ocispec.History{step("a")}, 2, []string{"a", ""}},
		{"more history than layers", []ocispec.History{step("a"), step("b")}, 1, []string{"a"}},
		{"an imported one", []ocispec.History{{Comment: "Imported from -"}}, 1, []string{"Imported from -"}},
	} {
		if got := madeBy(c.steps, c.layers); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCommonLayers(t *testing.T) {
	for _, c := range []struct {
		a, b []digest.Digest
		want int
	}{
		{nil, nil, 0},
		{[]digest.Digest{"a", "b"}, []digest.Digest{"a"}, 1},
		{[]digest.Digest{"a", "b"}, []digest.Digest{"a", "b", "c"}, 2},
		{[]digest.Digest{"x", "b"}, []digest.Digest{"a", "b"}, 0}, // the same layer on another is another
	} {
		if got := common(c.a, c.b); got != c.want {
			t.Errorf("%v %v: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// updates are the bars that a progress was told.
type updates struct {
	Silent
	got []string
}

func (u *updates) Update(id, action string, current, total int64) {
	u.got = append(u.got, fmt.Sprintf("%s %s %d/%d", id, action, current, total))
}

func TestReadingIsToldNowAndThen(t *testing.T) {
	now := time.Unix(1000, 0)
	var u updates
	told := reading(&u, func() time.Time { return now }, "layer 1/2", 100)
	for _, step := range []struct {
		after time.Duration
		read  int64
	}{{10 * time.Millisecond, 10}, {analyzeTold, 30}, {analyzeTold / 2, 50}, {analyzeTold / 2, 60}, {0, 100}, {time.Second, 100}} {
		now = now.Add(step.after)
		told(step.read)
	}
	want := []string{"layer 1/2 Reading 0/100", "layer 1/2 Reading 30/100", "layer 1/2 Reading 60/100", "layer 1/2 Read 100/100"}
	if !slices.Equal(u.got, want) {
		t.Errorf("%q, want %q", u.got, want)
	}
	reading(nil, nil, "", 0)(7) // nobody is told
}
