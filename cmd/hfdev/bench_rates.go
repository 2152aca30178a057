package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"holdfast.dev/holdfast/internal/testkit"
)

// The targets for one daemon with many containers.
const (
	targetChurn    = 0.5
	targetList     = 0.3
	targetEach     = 1.0
	targetComeUp   = 2.0 // seconds, whatever Docker takes
	churned        = 200
	churnClients   = 8
	listed         = 1000
	resting        = 50
	idleContainer  = `{"Image":"busybox","Cmd":["sleep","100000"],"StopSignal":"SIGKILL","HostConfig":{"NetworkMode":"none"}}`
	endedContainer = `{"Image":"busybox","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}`
	servedOnBridge = `{"Image":"busybox","Cmd":["sleep","100000"],"StopSignal":"SIGKILL"}`
)

// clients has n numbered pieces of work done by churnClients clients at once. A
// piece that fails for good ends its goroutine: then no more are begun, and the
// caller's ends too.
func clients(n int, do func(i int)) {
	var wg sync.WaitGroup
	work := make(chan int)
	failed := make(chan struct{})
	fail := sync.OnceFunc(func() { close(failed) })
	for range churnClients {
		wg.Go(func() {
			whole := false
			defer func() {
				if !whole {
					fail()
				}
			}()
			for i := range work {
				do(i)
			}
			whole = true
		})
	}
	ended := false
	for i := 0; i < n && !ended; i++ {
		select {
		case work <- i:
		case <-failed:
			ended = true
		}
	}
	close(work)
	wg.Wait()
	select {
	case <-failed:
		runtime.Goexit()
	default:
	}
}

func crowdName(i int) string { return "crowd" + strconv.Itoa(i) }

// crowd makes and starts n containers of a kind.
func (b *bench) crowd(d *testkit.Daemon, n int, body string) {
	b.t.Helper()
	clients(n, func(i int) {
		b.call(d, http.MethodPost, "/containers/create?name="+crowdName(i), body)
		b.call(d, http.MethodPost, "/containers/"+crowdName(i)+"/start", nil)
	})
}

func (b *bench) disperse(d *testkit.Daemon, n int) {
	b.t.Helper()
	clients(n, func(i int) { b.call(d, http.MethodDelete, "/containers/"+crowdName(i)+"?force=1&v=1", nil) })
}

// both gives the daemons that are there, ours first.
func (b *bench) both() []*testkit.Daemon {
	if b.docker == nil {
		return []*testkit.Daemon{b.ours}
	}
	return []*testkit.Daemon{b.ours, b.docker}
}

// churn measures whole lives of containers, eight clients at a time.
func (b *bench) churn() {
	b.t.Helper()
	n := b.count(churned, 40)
	var sides []func() float64
	for _, d := range b.both() {
		sides = append(sides, func() float64 {
			return timed(func() {
				clients(n, func(i int) {
					b.call(d, http.MethodPost, "/containers/create?name="+crowdName(i), servedOnBridge)
					b.call(d, http.MethodPost, "/containers/"+crowdName(i)+"/start", nil)
					b.call(d, http.MethodPost, "/containers/"+crowdName(i)+"/stop", nil)
					b.call(d, http.MethodDelete, "/containers/"+crowdName(i), nil)
				})
			})
		})
	}
	s := append(b.pairs(b.count(3, 1), sides...), nil)
	b.rows = append(b.rows, row{
		what: fmt.Sprintf("create, start, stop and remove %d containers, %d clients, by the API", n, churnClients),
		unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", target: targetChurn,
	})
}

// list measures `ps` where many containers ended and stayed.
func (b *bench) list() {
	b.t.Helper()
	n := b.count(listed, 100)
	var cli, api []func() float64
	for _, d := range b.both() {
		b.crowd(d, n, endedContainer)
		defer b.disperse(d, n)
		for i := range n {
			d.WaitState(crowdName(i), "exited")
		}
		cli = append(cli, func() float64 { return timed(func() { d.Docker("ps", "-a") }) })
		api = append(api, func() float64 {
			return timed(func() { b.call(d, http.MethodGet, "/containers/json?all=1", nil) })
		})
	}
	for _, kind := range []struct {
		what   string
		sides  []func() float64
		target float64
	}{
		{fmt.Sprintf("`docker ps -a` with %d stopped containers", n), cli, targetList},
		{fmt.Sprintf("the list of %d stopped containers, by the API", n), api, 0},
	} {
		s := append(b.pairs(b.count(15, 5), kind.sides...), nil)
		b.rows = append(b.rows, row{what: kind.what, unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", target: kind.target})
	}
}

// each measures what a running container costs in the engine's processes: the
// daemons and the shims, shared pages counted in parts.
func (b *bench) each() {
	b.t.Helper()
	var got []samples
	for _, d := range b.both() {
		before := b.settledPSS(d)
		b.crowd(d, resting, idleContainer)
		got = append(got, samples{(b.settledPSS(d) - before) / resting})
		b.disperse(d, resting)
	}
	got = append(got, nil)
	b.rows = append(b.rows, row{
		what: fmt.Sprintf("memory of a running container in daemon and shim (PSS, of %d)", resting),
		unit: mebibytes, ours: got[0], peer: got[1], name: "Docker", target: targetEach,
	})
}

// settledPSS waits until what the engine's processes hold hardly changes.
func (b *bench) settledPSS(d *testkit.Daemon) float64 {
	b.t.Helper()
	var last, sum float64
	still := 0
	testkit.Poll(b.t, 2*restLimit, "memory at rest", func() (bool, string) {
		last, sum = sum, enginePSS(d)
		if still++; sum-last > last/100 || last-sum > last/100 {
			still = 0
		}
		return still > 200, fmt.Sprintf("%.0f bytes", sum)
	})
	return sum
}

// enginePSS sums the proportional set sizes of a daemon, of what it runs beside
// itself, and of its shims: all carry one of its folders in their command line.
func enginePSS(d *testkit.Daemon) float64 {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // a constant pattern is well-formed
	var sum float64
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(string(line), d.Dir()) && filepath.Base(dir) != strconv.Itoa(d.Pid()) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // ended
		}
		switch n := strings.TrimSpace(string(name)); {
		case n == "holdfastd", n == "dockerd", n == "containerd", strings.HasPrefix(n, "containerd-shim"), n == "docker-proxy":
			sum += pss(dir)
		}
	}
	return sum
}

func pss(dir string) float64 {
	b, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return 0 // ended
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 64) // the kernel's own number
			return kib * 1024
		}
	}
	return 0
}

// comeUp measures from the start of a daemon to its API, while its containers run.
func (b *bench) comeUp() {
	b.t.Helper()
	n := b.count(churned, 40)
	var sides []func() float64
	for _, e := range []testkit.Engine{testkit.Holdfastd, testkit.Dockerd} {
		if e == testkit.Dockerd && b.docker == nil {
			continue
		}
		d := testkit.New(b.t, testkit.Options{Bare: true, Engine: e, Config: map[string]any{"live-restore": true}})
		d.Image("busybox")
		b.crowd(d, n, servedOnBridge)
		defer b.disperse(d, n)
		sides = append(sides, func() float64 {
			// Not killed: Docker's containerd outlives that, and with this many
			// containers may take no connections afterwards.
			d.Stop()
			return timed(d.Start)
		})
	}
	s := append(b.pairs(b.count(5, 2), sides...), nil)
	b.rows = append(b.rows, row{
		what: fmt.Sprintf("start of the daemon to a served API, %d containers running", n),
		unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", within: targetComeUp,
	})
}
