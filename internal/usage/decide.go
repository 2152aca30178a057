package usage

import "time"

// need says whether a size can be told as it is.
type need int

const (
	exact   need = iota // nothing wrote to it since it was measured
	aged                // somebody may have
	unknown             // it was never measured
)

// look compares what is known about a thing with what its owner says. changed
// says that it was written to, or may have been, since it was measured.
func look(e *Entry, s Subject, changed bool) need {
	switch {
	case e == nil || e.Birth != s.Birth:
		return unknown
	case changed, s.Open, e.Open, e.Stamp != s.Stamp:
		return aged
	}
	return exact
}

const (
	// restFactor is how many times longer than it works the background rests.
	restFactor = 10
	// oftenest and seldomest bound how often an open thing is measured.
	oftenest  = 30 * time.Second
	seldomest = 6 * time.Hour
	// cheap is the longest walk that is done while somebody waits for the answer.
	cheap = 20 * time.Millisecond
	// allowance is how much of such walking there may be in a second.
	allowance = 60 * time.Millisecond
)

// perFile is what a file costs a walk that nobody holds up.
const perFile = 5 * time.Microsecond

// costOf is what a walk for a waiting caller costs. The last one may have been
// slow because the machine was busy, as the background gives way to all else: a
// few files are quick all the same.
func costOf(e *Entry) time.Duration {
	return min(e.Worked, time.Duration(e.Size.Files+100)*perFile)
}

// dueAt is when the background measures a thing again. What costs more is
// measured less often.
func dueAt(e *Entry, s Subject, n need) (due time.Time, ever bool) {
	switch {
	case n == exact:
		return time.Time{}, false
	case n == unknown, !s.Open: // it came to rest: measured once more, and then known
		return time.Time{}, true
	}
	return e.At.Add(min(max(oftenest, 20*restFactor*e.Worked), seldomest)), true
}

// purse is what may be spent on walking while callers wait. It fills by
// allowance in a second.
type purse struct {
	have time.Duration
	at   time.Time
}

// spend takes d, if it is there.
func (p *purse) spend(now time.Time, d time.Duration) bool {
	if p.at.IsZero() {
		p.have = allowance
	} else if gone := now.Sub(p.at); gone > 0 {
		p.have = min(allowance, p.have+time.Duration(float64(allowance)*gone.Seconds()))
	}
	p.at = now
	if d > p.have {
		return false
	}
	p.have -= d
	return true
}
