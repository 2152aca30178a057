package logs

import (
	"fmt"
	"testing"
)

// TestSinceCountsAcrossRotations: a place noted before a batch tells how much of it
// is in the log, also for one that opened the log anew.
func TestSinceCountsAcrossRotations(t *testing.T) {
	for _, tt := range []struct {
		driver  string
		options []string
		gone    bool // the batch's last place is, by the next message
	}{
		{JSONFile, nil, false},
		{JSONFile, []string{"max-size=100", "max-file=9"}, false},
		{JSONFile, []string{"max-size=1"}, true},
		{Local, []string{"max-size=60", "max-file=9", "compress=false"}, false},
		{Syslog, []string{"syslog-address=udp://127.0.0.1:1"}, false},
	} {
		t.Run(fmt.Sprint(tt.driver, tt.options), func(t *testing.T) {
			c := config(t, tt.driver, tt.options...)
			l := mustOpen(t, c)
			var in []Message
			for i := range 7 {
				in = append(in, Message{Stream: "stdout", Time: epoch, Line: fmt.Appendf(nil, "line %d", i)})
			}
			other := Message{Stream: "stderr", Time: epoch, Line: []byte("other")}
			if err := LogAll(l, []Message{in[0], other}, nil); err != nil {
				t.Fatal(err)
			}
			var place Place
			before, after := 0, 0
			note := func(p Place, b, a int) {
				if b != after || a <= b {
					t.Errorf("noted %d to %d after %d", b, a, after)
				}
				place, before, after = p, b, a
			}
			if err := LogAll(l, in, note); err != nil {
				// Nobody need listen where syslog sends; the file beside it is what counts.
				t.Log(err)
			}
			if after != len(in) {
				t.Fatalf("noted up to %d of %d", after, len(in))
			}
			if err := l.Log(other); err != nil {
				t.Log(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = mustOpen(t, c)
			defer l.Close()
			n, known, err := Since(l, place, "stdout")
			if err != nil {
				t.Fatal(err)
			}
			// With one file each rotation puts the last one away: that batch has ended.
			if known && before+n != after {
				t.Errorf("%d before, %d since, want %d", before, n, after)
			}
			if known == tt.gone {
				t.Errorf("known: %t", known)
			}
		})
	}
}

func TestSinceNeedsAFile(t *testing.T) {
	if _, _, err := Since(mustOpen(t, config(t, None)), Place{}, "stdout"); err == nil {
		t.Error("no error for a log without files")
	}
}
