package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// bench is one run of the measurements: the engines under test, and what came out.
type bench struct {
	t     testkit.TB
	quick bool
	only  string
	scale float64 // of what is only measured with much content

	ours   *testkit.Daemon
	docker *testkit.Daemon // nil where dockerd is not installed
	podman *podman         // nil where podman is not installed
	built  []builder       // once something was built

	rows       []row
	notes      []string
	loadBefore string
}

// row compares the samples of one measurement, taken in turns.
type row struct {
	what   string
	unit   unit
	ours   samples
	peer   samples // empty: the peer is not installed
	name   string  // of the peer
	target float64 // ratio ours/peer to reach; 0: for information
	within float64 // seconds for ours to keep to, in place of a ratio
}

// unit says how numbers are written and which direction is good.
type unit struct {
	name   string
	scale  float64
	higher bool // more is better
}

var (
	milliseconds = unit{name: "ms", scale: 1e3}
	mebibytes    = unit{name: "MiB", scale: 1.0 / (1 << 20)}
	perSecond    = unit{name: "1/s", scale: 1, higher: true}
	gigabits     = unit{name: "Gbit/s", scale: 8e-9, higher: true}
)

// samples are in seconds, bytes or bytes per second.
type samples []float64

func (s samples) median() float64 {
	if len(s) == 0 {
		return 0
	}
	o := slices.Sorted(slices.Values(s))
	if n := len(o); n%2 == 0 {
		return (o[n/2-1] + o[n/2]) / 2
	}
	return o[len(o)/2]
}

// spread is the distance between the quartiles, as a share of the median.
func (s samples) spread() float64 {
	if len(s) < 4 || s.median() == 0 {
		return 0
	}
	o := slices.Sorted(slices.Values(s))
	return (o[len(o)*3/4] - o[len(o)/4]) / s.median()
}

func (r row) ratio() float64 {
	if m := r.peer.median(); m != 0 {
		return r.ours.median() / m
	}
	return 0
}

// verdict tells whether a target is met and by how much it is missed.
func (r row) verdict() string {
	switch {
	case r.within > 0 && r.ours.median() <= r.within:
		return "met"
	case r.within > 0:
		return fmt.Sprintf("missed by %.0f %%", (r.ours.median()/r.within-1)*100)
	case r.target == 0:
		return ""
	case len(r.peer) == 0:
		return "not measured"
	case r.unit.higher && r.ratio() >= r.target, !r.unit.higher && r.ratio() <= r.target:
		return "met"
	case r.unit.higher:
		return fmt.Sprintf("missed by %.0f %%", (1-r.ratio()/r.target)*100)
	}
	return fmt.Sprintf("missed by %.0f %%", (r.ratio()/r.target-1)*100)
}

func runBench(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "few samples, to see a trend")
	only := fs.String("only", "", "run only measurements whose name contains this: run, side by side, load, memory, throughput, names, analyze, churn, list, each, come up, cold build, rebuild, usage")
	scale := fs.Float64("scale", 1, "how much content \"usage\" is measured with; 1 is 300 images, 200 containers, 500 volumes, 1,000,000 files")
	write := fs.String("write", "", "put the result between the marks of this file")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var report string
	failed := testkit.RunProgram("hfdev bench", func(t testkit.TB) {
		b := &bench{t: t, quick: *quick, only: *only, scale: *scale, loadBefore: loadAverage()}
		b.start()
		b.measure(ctx)
		report = b.report(time.Now())
	})
	if report != "" {
		fmt.Println(report)
	}
	if failed {
		return errors.New("not everything could be measured")
	}
	if *write == "" {
		return nil
	}
	return writeReport(*write, report)
}

// start brings up every engine that is installed, each on its own root and in
// its own namespaces.
func (b *bench) start() {
	b.t.Helper()
	b.ours = testkit.New(b.t, testkit.Options{Bare: true})
	b.ours.Image("nettool")
	b.ours.Image("busybox")
	if _, err := exec.LookPath("dockerd"); err == nil {
		b.docker = testkit.New(b.t, testkit.Options{Bare: true, Engine: testkit.Dockerd})
		b.docker.Image("nettool")
		b.docker.Image("busybox")
	} else {
		b.skip("Docker", "dockerd is not installed (Debian package docker.io)")
	}
	if _, err := exec.LookPath("podman"); err == nil {
		b.podman = newPodman(b.t)
	} else {
		b.skip("podman", "podman is not installed (Debian package podman)")
	}
}

func (b *bench) skip(what, why string) {
	note := fmt.Sprintf("%s: skipped, %s", what, why)
	fmt.Fprintln(os.Stderr, note)
	b.notes = append(b.notes, note)
}

func (b *bench) measure(ctx context.Context) {
	b.t.Helper()
	for _, m := range []struct {
		name string
		do   func()
	}{
		{"memory", b.memory}, // first: nothing has happened yet
		{"run", b.run},
		{"side by side", b.sideBySide},
		{"load", b.load},
		{"throughput", b.throughput},
		{"names", b.names},
		{"analyze", b.analyze},
		{"churn", b.churn},
		{"list", b.list},
		{"each", b.each},
		{"come up", b.comeUp},
		{"cold build", b.coldBuild},
		{"rebuild", b.rebuild},
		{"usage", b.usage}, // last: its content goes with all images
	} {
		if ctx.Err() != nil {
			b.t.Fatalf("interrupted")
		}
		if !strings.Contains(m.name, b.only) {
			continue
		}
		before := len(b.rows)
		m.do()
		for _, r := range b.rows[before:] {
			fmt.Fprintf(os.Stderr, "%s: %s, against %s %s, ratio %.2f %s\n", r.what, r.unit.format(r.ours), r.name, r.unit.format(r.peer), r.ratio(), r.verdict())
		}
	}
}

func (u unit) format(s samples) string {
	if len(s) == 0 {
		return "–"
	}
	v := s.median() * u.scale
	if v < 10 {
		return fmt.Sprintf("%.2f %s", v, u.name)
	}
	return fmt.Sprintf("%.0f %s", v, u.name)
}

// pairs takes n samples of each side in turns, after one of each that does not
// count. Which side goes first alternates.
func (b *bench) pairs(n int, sides ...func() float64) []samples {
	out := make([]samples, len(sides))
	for i := -1; i < n; i++ {
		for k := range sides {
			if i%2 != 0 {
				k = len(sides) - 1 - k
			}
			v := sides[k]()
			if i >= 0 {
				out[k] = append(out[k], v)
			}
		}
	}
	return out
}

func (b *bench) count(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

func timed(f func()) float64 {
	begin := time.Now()
	f()
	return time.Since(begin).Seconds()
}
