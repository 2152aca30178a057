package backup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Keep says how many backups stay: the newest Last, and of the last so many hours,
// days, … that have one, the newest of each. The zero value keeps all.
type Keep struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
}

// IsZero tells whether nothing is ever removed.
func (k Keep) IsZero() bool { return k == Keep{} }

// ParseKeep reads "7" (the newest seven) or "last=3,daily=7,weekly=4".
func ParseKeep(text string) (k Keep, err error) {
	fields := map[string]*int{
		"last": &k.Last, "hourly": &k.Hourly, "daily": &k.Daily, "weekly": &k.Weekly, "monthly": &k.Monthly, "yearly": &k.Yearly,
	}
	if text = strings.TrimSpace(text); text == "" {
		return k, nil
	}
	if _, err := strconv.Atoi(text); err == nil {
		text = "last=" + text
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		field, ok := fields[strings.TrimSpace(name)]
		n, aerr := strconv.Atoi(strings.TrimSpace(value))
		if !ok || aerr != nil || n < 1 || n > 10000 {
			return Keep{}, fault.New(errdefs.ErrInvalidArgument, "keep %q: want a number, or last=N,hourly=N,daily=N,weekly=N,monthly=N,yearly=N with N from 1", text)
		}
		*field = n
	}
	return k, nil
}

// Drop picks, from the backups of one volume, oldest first, those that do not stay.
// Only what a schedule made goes. The newest stays, and the newest that was verified
// and found good: there is always one that is known to work.
func (k Keep) Drop(all []Backup) []Backup {
	if k.IsZero() {
		return nil
	}
	rules := []struct {
		left int
		slot func(time.Time) string
	}{
		{k.Last, func(t time.Time) string { return t.Format(time.RFC3339Nano) }},
		{k.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{k.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
	last := make([]string, len(rules))
	good, newest := false, true
	var out []Backup
	for _, b := range slices.Backward(all) {
		if b.Why != WhySchedule {
			continue
		}
		stays := newest
		newest = false
		for i := range rules {
			if s := rules[i].slot(b.Moment.Local()); rules[i].left > 0 && s != last[i] {
				last[i] = s
				rules[i].left--
				stays = true
			}
		}
		if b.Verified.OK() && !good {
			good, stays = true, true
		}
		if !stays {
			out = append(out, b)
		}
	}
	slices.Reverse(out)
	return out
}
