package usage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
)

func parse(t *testing.T, s string) Policy {
	t.Helper()
	var p Policy
	if err := p.Set(s); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyIsReadAndChecked(t *testing.T) {
	p := parse(t, `{"high-water":"85%","low-water":"75%","every":"2h","images":{"keep-last":2,"keep-until":"7d","keep-if-label":["a=b"]}}`)
	if p.HighWater.Percent != 85 || time.Duration(p.Every) != 2*time.Hour || time.Duration(p.Images.KeepUntil) != 7*24*time.Hour || p.Containers != nil {
		t.Errorf("got %+v", p)
	}
	for _, key := range []string{"images", "containers", "build-cache", "snapshots", "trash", "logs"} {
		if p := parse(t, `{"`+key+`":{"keep-last":3}}`); p.Idle() || !strings.Contains(p.String(), `"`+key+`":{"keep-last":3}`) {
			t.Errorf("%s: %s", key, p.String())
		}
	}
	again := parse(t, p.String())
	if again.String() != p.String() {
		t.Errorf("%s became %s", p.String(), again.String())
	}
	if got := (&Policy{}).String(); got != "" {
		t.Errorf("the zero policy is %q", got)
	}
	if m := parse(t, `{"high-water":"200GB"}`).HighWater; m.Bytes != 200e9 || m.String() != "200GB" {
		t.Errorf("got %+v", m)
	}
	for s, want := range map[string]string{
		`{"low-water":"5%"}`:                      "low-water without high-water",
		`{"high-water":"50%","low-water":"60%"}`:  "above high-water",
		`{"high-water":"50%","low-water":"6GB"}`:  "both be shares",
		`{"high-water":"0%"}`:                     "more than 0%",
		`{"high-water":"NaN%"}`:                   "more than 0%",
		`{"high-water":85}`:                       `is a text such as "85%"`,
		`{"every":"1s"}`:                          "less than a minute",
		`{"images":{"keep-last":-1}}`:             "keep-last -1",
		`{"images":{"keep-until":"soon"}}`:        `invalid duration "soon"`,
		`{"images":{"keep-until":"-1h"}}`:         `invalid duration "-1h"`,
		`{"images":{"keeplast":1}}`:               `unknown field "keeplast"`,
		`{"volumes":{}}`:                          `unknown field "volumes"`,
		`{"trash":{"keep-last":-2}}`:              "storage-policy: trash: keep-last -2",
		`{"logs":{"keep-last":-2}}`:               "storage-policy: logs: keep-last -2",
		`{"build-cache":{"keep-if-label":["x"]}}`: "the cache has no labels",
	} {
		var p Policy
		err := json.Unmarshal([]byte(s), &p)
		if err == nil {
			err = p.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// judged is what goes, oldest first.
func judged(vs []Verdict) string {
	var out []string
	for _, v := range vs {
		if v.Goes {
			out = append(out, v.ID)
		}
	}
	return strings.Join(out, " ")
}

func TestJudge(t *testing.T) {
	now := time.Unix(1e9, 0)
	old := func(id, group string, days int, labels ...string) Held {
		h := Held{Kind: "image", ID: id, Group: group, Since: now.Add(-time.Duration(days) * 24 * time.Hour), Frees: 10, Labels: map[string]string{}}
		for _, l := range labels {
			h.Labels[l] = "yes"
		}
		return h
	}
	trash := func(h Held) Held { h.Kind = "trash"; return h }
	all := []Held{
		trash(old("t9", "data", 9)), trash(old("t2", "data", 2)), old("a1", "a", 1), old("a5", "a", 5), old("a9", "a", 9), old("b9", "b", 9, "keep"), old("b8", "b", 8), {Kind: "network", ID: "n"},
	}
	disk := Disk{Total: 1000, Used: 850}
	for _, c := range []struct{ name, policy, want string }{
		{"all", `{"images":{}}`, "b9 a9 b8 a5 a1"},
		{"the newest of each", `{"images":{"keep-last":1}}`, "b9 a9 a5"},
		{"young ones", `{"images":{"keep-until":"8d"}}`, "b9 a9 b8"},
		{"by label", `{"images":{"keep-if-label":["keep"]}}`, "a9 b8 a5 a1"},
		{"by label's value", `{"images":{"keep-if-label":["keep=no"]}}`, "b9 a9 b8 a5 a1"},
		{"no rule", `{"containers":{}}`, ""},
		{"below the mark", `{"high-water":"86%","images":{}}`, ""},
		{"to the low mark", `{"high-water":"85%","low-water":"83%","images":{}}`, "b9 a9"},
		{"a tenth below", `{"high-water":"85%","images":{"keep-last":1}}`, "b9 a9 a5"},
		// The trash is given up early only above the mark, and where there is a rule for it.
		{"the trash below the mark", `{"high-water":"86%","trash":{}}`, ""},
		{"the trash above it", `{"high-water":"85%","low-water":"84%","trash":{}}`, "t9"},
		{"the trash above it, not allowed", `{"high-water":"85%","low-water":"10%","containers":{}}`, ""},
		{"the trash with images, oldest first", `{"high-water":"85%","low-water":"82%","trash":{"keep-until":"5d"},"images":{"keep-last":1}}`, "t9 b9 a9"},
		{"in bytes", `{"high-water":"850B","low-water":"841B","images":{}}`, "b9"},
	} {
		p := parse(t, c.policy)
		rule := func(kind string) *Rule {
			return map[string]*Rule{"image": p.Images, "trash": p.Trash}[kind]
		}
		got := Judge(now, disk, p, rule, all)
		if judged(got) != c.want {
			t.Errorf("%s: %q, want %q", c.name, judged(got), c.want)
		}
		for _, v := range got {
			if v.Why == "" {
				t.Errorf("%s: no reason for %s", c.name, v.ID)
			}
		}
	}
}

type fakeStore struct {
	disk   Disk
	held   []Held
	inUse  map[string]bool
	fail   error
	wanted []string
}

func (s *fakeStore) Disk() (Disk, error) { return s.disk, nil }

func (s *fakeStore) Unused(context.Context, func(string) *Rule) ([]Held, error) { return s.held, nil }

func (s *fakeStore) Remove(_ context.Context, all []Held) (func(Held) bool, error) {
	for _, h := range all {
		s.wanted = append(s.wanted, h.ID)
	}
	return func(h Held) bool { return !s.inUse[h.ID] }, s.fail
}

func (*fakeStore) Rule(p Policy, _ string) *Rule { return p.Images }

type fakeRuns struct{ all []*Run }

func (r *fakeRuns) Put(_ string, v *Run) error { r.all = append(r.all, v); return nil }
func (r *fakeRuns) All() ([]*Run, error)       { return append([]*Run(nil), r.all...), nil }
func (r *fakeRuns) Delete(id string) error {
	for i, v := range r.all {
		if v.ID == id {
			r.all = append(r.all[:i:i], r.all[i+1:]...)
			break
		}
	}
	return nil
}

type heard []events.Message

func (t *heard) Publish(m events.Message) { *t = append(*t, m) }

func TestJanitorPutsDownWhatItDid(t *testing.T) {
	clk := &fakeClock{now: time.Unix(1e9, 0)}
	store := &fakeStore{disk: Disk{Total: 100, Used: 90}, inUse: map[string]bool{"b": true}}
	runs, told := &fakeRuns{}, &heard{}
	p := Policy{Images: &Rule{}}
	j := NewJanitor(JanitorDeps{
		Clock: clk, Log: slog.New(slog.DiscardHandler), Policy: func() Policy { return p }, Store: store, Runs: runs, Events: told, Daemon: "d",
	})
	if _, err := j.RunNow(t.Context(), "it is time", false); err != nil || len(runs.all) != 0 {
		t.Errorf("nothing to do: %v, %v", runs.all, err)
	}
	store.held = []Held{{Kind: "image", ID: "a", Frees: 5}, {Kind: "image", ID: "b", Frees: 7}}
	r, err := j.RunNow(t.Context(), "it is time", false)
	if err != nil || r.Freed != 5 || len(r.Gone) != 2 || r.Used != 90 || len(runs.all) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, g := range r.Gone {
		if g.Removed == store.inUse[g.ID] {
			t.Errorf("%+v", g)
		}
	}
	if len(*told) != 1 || (*told)[0].Action != ActionPolicy || (*told)[0].Actor.Attributes["removed"] != "1" || (*told)[0].Actor.Attributes["reclaimed"] != "5" {
		t.Errorf("told %+v", *told)
	}
	store.fail = errors.New("disk on fire")
	clk.pass(time.Second)
	if r, err = j.RunNow(t.Context(), "it is time", false); err == nil || r.Error != "disk on fire" || len(runs.all) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	store.fail = nil
	for range keepRuns + 5 {
		clk.pass(time.Second)
		if _, err := j.RunNow(t.Context(), "asked for", true); err != nil {
			t.Fatal(err)
		}
	}
	if log, err := j.Log(); err != nil || len(log) != keepRuns || !log[0].At.After(log[1].At) {
		t.Errorf("%d runs, %v", len(log), err)
	}
}

func TestWhenThePolicyRuns(t *testing.T) {
	now := time.Unix(1e9, 0)
	full, half := Disk{Total: 100, Used: 90}, Disk{Total: 100, Used: 50}
	for _, c := range []struct {
		policy        string
		d             Disk
		last, forMark time.Duration // ago
		want          string
	}{
		{`{}`, full, 100 * time.Hour, 100 * time.Hour, ""},
		{`{"high-water":"80%"}`, full, 100 * time.Hour, 100 * time.Hour, ""},
		{`{"images":{}}`, half, 59 * time.Minute, 0, ""},
		{`{"images":{}}`, half, time.Hour, 0, "it is time"},
		{`{"images":{},"every":"5m"}`, half, 5 * time.Minute, 0, "it is time"},
		{`{"images":{},"high-water":"80%"}`, half, 100 * time.Hour, 100 * time.Hour, ""},
		{`{"images":{},"high-water":"80%"}`, full, 0, 9 * time.Minute, ""},
		{`{"images":{},"high-water":"80%"}`, full, 0, 10 * time.Minute, "the disk is above the high-water mark of 80%"},
	} {
		if got := reason(parse(t, c.policy), c.d, now, now.Add(-c.last), now.Add(-c.forMark)); got != c.want {
			t.Errorf("%s: %q, want %q", fmt.Sprint(c), got, c.want)
		}
	}
}

func TestFrees(t *testing.T) {
	got := Frees([]Candidate{
		{ID: "c", Own: 3},
		{ID: "one", Parts: map[string]int64{"a": 100, "b": 10, "kept": 5}},
		{ID: "two", Parts: map[string]int64{"a": 100, "pinned": 7}},
		{ID: "unknown", Own: -1},
	}, []Made{{Parts: map[string]int64{"kept": 5}}}, func(p string) bool { return p == "pinned" })
	if fmt.Sprint(got) != "[3 10 100 0]" {
		t.Errorf("got %v", got)
	}
}
