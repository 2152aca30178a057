package usage

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Policy says what is removed without being asked for. The zero value removes
// nothing.
type Policy struct {
	// HighWater is how full the disk may get before anything is removed; without
	// it whatever a rule lets go goes at every run.
	HighWater Mark `json:"high-water,omitzero"`
	// LowWater is how full it is after that; without it a tenth below HighWater.
	LowWater Mark     `json:"low-water,omitzero"`
	Every    Duration `json:"every,omitzero"` // without it an hour

	Images     *Rule `json:"images,omitempty"`
	Containers *Rule `json:"containers,omitempty"`
	BuildCache *Rule `json:"build-cache,omitempty"`
	Snapshots  *Rule `json:"snapshots,omitempty"` // of volumes
	Trash      *Rule `json:"trash,omitempty"`     // removed volumes, before their time
	Logs       *Rule `json:"logs,omitempty"`      // files of containers' logs that nobody writes
}

// rules are all rules by their keys.
func (p *Policy) rules() []keyed {
	return []keyed{
		{"images", p.Images},
		{"containers", p.Containers},
		{"build-cache", p.BuildCache},
		{"snapshots", p.Snapshots},
		{"trash", p.Trash},
		{"logs", p.Logs},
	}
}

type keyed struct {
	key  string
	rule *Rule
}

// Rule says what stays of what nobody uses.
type Rule struct {
	KeepLast    int      `json:"keep-last,omitempty"`     // the newest; of images per repository, of snapshots per volume, of logs per container
	KeepUntil   Duration `json:"keep-until,omitzero"`     // what is younger
	KeepIfLabel []string `json:"keep-if-label,omitempty"` // key or key=value
}

// Duration is written as "36h" or "7d".
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a text such as \"36h\" or \"7d\", not %s", b)
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && n >= 0 && n < 36500 {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("invalid duration %q: want a text such as \"36h\" or \"7d\"", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Mark is how full a disk is: "85%", or what is used of it, "200GB".
type Mark struct {
	Percent float64
	Bytes   int64
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Mark) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a water mark is a text such as \"85%%\" or \"200GB\", not %s", b)
	}
	if p, ok := strings.CutSuffix(s, "%"); ok {
		v, err := strconv.ParseFloat(p, 64)
		if err != nil || !(v > 0 && v <= 100) {
			return fmt.Errorf("invalid water mark %q: want more than 0%% and at most 100%%", s)
		}
		*m = Mark{Percent: v}
		return nil
	}
	n, err := units.FromHumanSize(s)
	if err != nil || n <= 0 {
		return fmt.Errorf("invalid water mark %q: want a text such as \"85%%\" or \"200GB\"", s)
	}
	*m = Mark{Bytes: n}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (m Mark) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// String is the mark as it is written.
func (m Mark) String() string {
	switch {
	case m.Percent > 0:
		return strconv.FormatFloat(m.Percent, 'f', -1, 64) + "%"
	case m.Bytes > 0:
		return units.CustomSize("%.10g%s", float64(m.Bytes), 1000, []string{"B", "kB", "MB", "GB", "TB", "PB"})
	}
	return ""
}

// of is the mark in bytes of a disk.
func (m Mark) of(d Disk) int64 {
	if m.Bytes > 0 {
		return m.Bytes
	}
	return int64(m.Percent / 100 * float64(d.Total))
}

// UnmarshalJSON implements json.Unmarshaler. What it does not know it refuses: a
// rule that is not kept would remove too much.
func (p *Policy) UnmarshalJSON(b []byte) error {
	type plain Policy
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var out plain
	if err := dec.Decode(&out); err != nil {
		return fmt.Errorf("storage-policy: %w", err)
	}
	*p = Policy(out)
	return nil
}

// Set implements pflag.Value: the policy as JSON.
func (p *Policy) Set(s string) error { return json.Unmarshal([]byte(s), p) }

// String implements pflag.Value.
func (p *Policy) String() string {
	if p == nil || p.Idle() && p.HighWater == (Mark{}) {
		return ""
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Type implements pflag.Value.
func (*Policy) Type() string { return "policy" }

// Idle says that the policy never removes anything.
func (p *Policy) Idle() bool {
	return !slices.ContainsFunc(p.rules(), func(k keyed) bool { return k.rule != nil })
}

// Check refuses what makes no sense.
func (p *Policy) Check() error {
	var errs []error
	high, low := p.HighWater, p.LowWater
	switch {
	case low != (Mark{}) && high == (Mark{}):
		errs = append(errs, errors.New("storage-policy: low-water without high-water"))
	case low != (Mark{}) && (low.Percent > 0) != (high.Percent > 0):
		errs = append(errs, errors.New("storage-policy: high-water and low-water must both be shares or both be sizes"))
	case low.Percent > high.Percent, low.Bytes > high.Bytes:
		errs = append(errs, fmt.Errorf("storage-policy: low-water %s is above high-water %s", low, high))
	}
	if e := time.Duration(p.Every); e != 0 && e < time.Minute {
		errs = append(errs, fmt.Errorf("storage-policy: every %s is less than a minute", e))
	}
	for _, k := range p.rules() {
		if k.rule != nil && k.rule.KeepLast < 0 {
			errs = append(errs, fmt.Errorf("storage-policy: %s: keep-last %d is less than 0", k.key, k.rule.KeepLast))
		}
	}
	if p.BuildCache != nil && len(p.BuildCache.KeepIfLabel) > 0 {
		errs = append(errs, errors.New("storage-policy: build-cache: keep-if-label is not served, the cache has no labels"))
	}
	return errors.Join(errs...)
}

// Disk is the file system of the daemon's root.
type Disk struct {
	Total, Used, Free  int64 // bytes; Free is what may still be written
	Inodes, InodesFree int64 // 0: the file system has no such limit
}

// Held is something unused that a policy may let go.
type Held struct {
	Kind   string
	ID     string
	Name   string
	Group  string // keep-last counts within it
	Since  time.Time
	Labels map[string]string
	Frees  int64
}

// Verdict is what a policy says of a thing.
type Verdict struct {
	Held
	Goes bool
	Why  string
}

// Judge says what of the unused things goes: first which may, by the rule of
// their kind, then, where there is a high-water mark, as many of these, oldest
// first, as bring the disk below the low one.
func Judge(now time.Time, d Disk, p Policy, rule func(kind string) *Rule, all []Held) []Verdict {
	newest := slices.Clone(all)
	slices.SortStableFunc(newest, func(a, b Held) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name))
	})
	nth := map[[2]string]int{}
	out := make([]Verdict, 0, len(newest))
	for _, h := range newest {
		r := rule(h.Kind)
		if r == nil {
			continue
		}
		g := [2]string{h.Kind, h.Group}
		nth[g]++
		v := Verdict{Held: h}
		v.Goes, v.Why = r.judge(now, h, nth[g])
		out = append(out, v)
	}
	slices.Reverse(out) // oldest first
	if p.HighWater != (Mark{}) {
		toMark(d, p, out)
	}
	return out
}

func (r *Rule) judge(now time.Time, h Held, nth int) (goes bool, why string) {
	age := now.Sub(h.Since)
	for _, l := range r.KeepIfLabel {
		k, want, hasValue := strings.Cut(l, "=")
		if v, ok := h.Labels[k]; ok && (!hasValue || v == want) {
			return false, "kept: it has the label " + l
		}
	}
	switch {
	case nth <= r.KeepLast:
		return false, fmt.Sprintf("kept: it is among the newest %d", r.KeepLast)
	case age < time.Duration(r.KeepUntil):
		return false, "kept: it is younger than " + units.HumanDuration(time.Duration(r.KeepUntil))
	}
	return true, "unused, and " + units.HumanDuration(age) + " old"
}

// toMark keeps what need not go.
func toMark(d Disk, p Policy, out []Verdict) {
	high, low := p.HighWater.of(d), p.LowWater.of(d)
	if low == 0 {
		low = high - high/10
	}
	used := d.Used
	full := used >= high
	for i := range out {
		v := &out[i]
		switch {
		case !v.Goes:
		case !full:
			v.Goes, v.Why = false, "may go, but the disk is below the high-water mark of "+p.HighWater.String()
		case used <= low:
			v.Goes, v.Why = false, "may go, but the disk is below the low-water mark by then"
		default:
			used -= v.Frees
		}
	}
}
