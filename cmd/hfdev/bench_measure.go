package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// The targets of the project, as ratios ours/Docker's.
const (
	targetRun        = 0.35
	targetSideBySide = 0.5
	targetLoad       = 0.6
	targetMemory     = 0.8
	targetThroughput = 1.0

	manyStarts = 20
	loadSize   = 200 << 20
)

// run measures a container from the prompt to the prompt.
func (b *bench) run() {
	b.t.Helper()
	args := []string{"run", "--rm", "busybox", "true"}
	// podman raises hard limits by itself, which not every machine allows.
	podArgs := []string{"run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "busybox", "true"}
	sides := []func() float64{
		func() float64 { return timed(func() { b.ours.Docker(args...) }) },
		func() float64 { return timed(func() { b.ours.Holdfast(args...) }) },
	}
	docker, pod := -1, -1
	if b.docker != nil {
		docker = len(sides)
		sides = append(sides, func() float64 { return timed(func() { b.docker.Docker(args...) }) })
	}
	if b.podman != nil {
		pod = len(sides)
		sides = append(sides, func() float64 { return timed(func() { b.podman.do(podArgs...) }) })
	}
	s := append(b.pairs(b.count(30, 7), sides...), nil)
	at := func(i int) samples {
		if i < 0 {
			return nil
		}
		return s[i]
	}
	b.rows = append(b.rows,
		row{what: "`docker run --rm busybox true`", unit: milliseconds, ours: s[0], peer: at(docker), name: "Docker", target: targetRun},
		row{what: "`holdfast run --rm busybox true`", unit: milliseconds, ours: s[1], peer: at(docker), name: "Docker"},
	)
	if pod >= 0 {
		b.rows = append(b.rows, row{what: "`run --rm busybox true`", unit: milliseconds, ours: s[0], peer: s[pod], name: "podman"})
	}
}

// sideBySide measures many starts at once: with clients that compete for the
// processors as on a real machine, and by the API alone, which is the engine's part.
func (b *bench) sideBySide() {
	b.t.Helper()
	cli := func(d *testkit.Daemon) func() float64 {
		return func() float64 {
			return b.many(d, func(i int) {
				d.Docker("run", "-d", "--name", "many"+strconv.Itoa(i), "busybox", "sleep", "1000")
			})
		}
	}
	api := func(d *testkit.Daemon) func() float64 {
		return func() float64 {
			return b.many(d, func(i int) {
				name := "many" + strconv.Itoa(i)
				b.call(d, http.MethodPost, "/containers/create?name="+name, `{"Image":"busybox","Cmd":["sleep","1000"]}`)
				b.call(d, http.MethodPost, "/containers/"+name+"/start", nil)
			})
		}
	}
	n := b.count(7, 3)
	for _, kind := range []struct {
		what   string
		of     func(*testkit.Daemon) func() float64
		target float64
	}{
		{fmt.Sprintf("%d × `docker run -d` side by side", manyStarts), cli, targetSideBySide},
		{fmt.Sprintf("%d × create and start side by side, by the API", manyStarts), api, 0},
	} {
		sides := []func() float64{kind.of(b.ours)}
		if b.docker != nil {
			sides = append(sides, kind.of(b.docker))
		}
		s := append(b.pairs(n, sides...), nil)
		b.rows = append(b.rows, row{what: kind.what, unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", target: kind.target})
	}
}

// many times one call of start for each container, all at once, and removes them.
func (b *bench) many(d *testkit.Daemon, start func(i int)) float64 {
	b.t.Helper()
	took := timed(func() {
		var wg sync.WaitGroup
		for i := range manyStarts {
			wg.Go(func() { start(i) })
		}
		wg.Wait()
	})
	args := []string{"rm", "-f", "-v"}
	for i := range manyStarts {
		args = append(args, "many"+strconv.Itoa(i))
	}
	d.Docker(args...)
	return took
}

func (b *bench) call(d *testkit.Daemon, method, path string, body any) {
	if code, out := d.API(method, path, body); code >= http.StatusBadRequest {
		b.t.Errorf("%s %s: %d %s", method, path, code, out)
	}
}

// load measures `docker load` of an image that the engine has nothing of. Each
// sample is another image: to remove the last one first would measure how ext4
// searches for inodes that were not deleted a moment ago.
func (b *bench) load() {
	b.t.Helper()
	n := b.count(7, 3)
	side := func(d *testkit.Daemon) func() float64 {
		var sample uint64
		return func() float64 {
			sample++
			file := filepath.Join(d.Dir(), "load.tar")
			if err := os.WriteFile(file, bigImage(sample), 0o600); err != nil {
				b.t.Fatalf("write the image to load: %v", err)
			}
			settle(b.t)
			return timed(func() { d.Docker("load", "-q", "-i", file) })
		}
	}
	sides := []func() float64{side(b.ours)}
	if b.docker != nil {
		sides = append(sides, side(b.docker))
	}
	s := append(b.pairs(n, sides...), nil)
	b.rows = append(b.rows, row{what: "`docker load` of a 200 MB image", unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", target: targetLoad})
}

// settle writes what is dirty, so that the next sample does not pay for the last.
func settle(t testkit.TB) {
	if out, err := exec.Command("sync").CombinedOutput(); err != nil {
		t.Errorf("sync: %v: %s", err, out)
	}
}

// bigImage is an archive of 200 MiB in three layers of files of many sizes, half
// of it text-like and half noise. It is the same for every run of one number.
func bigImage(number uint64) []byte {
	const layers = 3
	rnd := rand.New(rand.NewPCG(number, 2)) //nolint:gosec // noise, not a secret
	spec := testkit.ImageSpec{Ref: fmt.Sprintf("bench/load:%d", number), Config: map[string]any{"Cmd": []string{"true"}}}
	for l := range layers {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, dir := range []string{"usr", "usr/share", fmt.Sprintf("usr/share/layer%d", l)} { // as builders write them
			must(w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
		}
		for f := 0; buf.Len() < loadSize/layers; f++ {
			size := 512 << rnd.IntN(13) // 512 bytes to 2 MiB
			body := make([]byte, size)
			for i := range body {
				body[i] = byte(rnd.Uint32())
				if f%2 == 0 {
					body[i] = "etaoin shrdlu\n "[body[i]&15%15]
				}
			}
			dir := fmt.Sprintf("usr/share/layer%d/dir%02d", l, f%50)
			if f < 50 { //nolint:mnd // one entry for each directory
				must(w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
			}
			must(w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%s/file%05d", dir, f), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}))
			_, err := w.Write(body)
			must(err)
		}
		must(w.Close())
		spec.Layers = append(spec.Layers, buf.Bytes())
	}
	return spec.Archive()
}

// must is for writing to memory, which does not fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// memory measures what idle daemons hold: nothing has run yet, and again after
// the containers of a warm-up are gone.
func (b *bench) memory() {
	b.t.Helper()
	for _, when := range []string{"after the start", "after 20 containers came and went"} {
		if when != "after the start" {
			for _, d := range []*testkit.Daemon{b.ours, b.docker} {
				if d == nil {
					continue
				}
				for range manyStarts {
					d.Docker("run", "--rm", "busybox", "true")
				}
			}
		}
		ours := samples{b.resident(b.ours, "holdfastd")}
		var peer samples
		if b.docker != nil {
			peer = samples{b.resident(b.docker, "dockerd", "containerd")}
		}
		r := row{what: "idle resident memory, " + when, unit: mebibytes, ours: ours, peer: peer, name: "Docker", target: targetMemory}
		b.rows = append(b.rows, r)
	}
}

// restLimit bounds the wait for a daemon's memory to come to rest.
const restLimit = 45 * time.Second

// resident sums the resident memory of the daemon's named processes once it
// has stopped changing.
func (b *bench) resident(d *testkit.Daemon, names ...string) float64 {
	b.t.Helper()
	var last, sum int64
	still := 0
	testkit.Poll(b.t, 2*restLimit, "memory at rest", func() (bool, string) {
		last, sum = sum, 0
		for _, p := range processesUnder(d.Pid()) {
			if len(names) == 0 || contains(names, p.name) {
				sum += p.rss
			}
		}
		if still++; sum != last {
			still = 0
		}
		time.Sleep(50 * time.Millisecond) // what is measured is that nothing changes over time
		return still > 100, fmt.Sprintf("%d bytes", sum)
	})
	return float64(sum)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

type proc struct {
	name string
	rss  int64
}

// processesUnder lists a process and its descendants.
func processesUnder(pid int) []proc {
	var out []proc
	if p, ok := readProc(pid); ok {
		out = append(out, p)
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // a constant pattern is well-formed
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // ended
		}
		for _, c := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(c); err == nil {
				out = append(out, processesUnder(n)...)
			}
		}
	}
	return out
}

func readProc(pid int) (proc, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return proc{}, false
	}
	var p proc
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		v = strings.TrimSpace(v)
		switch k {
		case "Name":
			p.name = v
		case "VmRSS":
			kib, _ := strconv.ParseInt(strings.TrimSuffix(v, " kB"), 10, 64) // the kernel's own number
			p.rss = kib << 10
		}
	}
	return p, true
}

// throughput measures bulk TCP between two containers on the default bridge,
// and from a neighbour machine to a published port.
func (b *bench) throughput() {
	b.t.Helper()
	sides := []*netSide{b.netSide(b.ours)}
	if b.docker != nil {
		sides = append(sides, b.netSide(b.docker))
	}
	defer func() {
		for _, s := range sides {
			s.close()
		}
	}()
	seconds := strconv.Itoa(b.count(2, 1))
	for _, kind := range []struct {
		what string
		do   func(*netSide) float64
	}{
		{"throughput between containers on a bridge", func(s *netSide) float64 {
			return rate(b.t, s.d.Docker("exec", "sender", "nettool", "send", s.sink+":5201", seconds))
		}},
		{"throughput of a published port, from another machine", func(s *netSide) float64 {
			return rate(b.t, s.fromNeighbour(seconds))
		}},
	} {
		var fs []func() float64
		for _, s := range sides {
			fs = append(fs, func() float64 { return kind.do(s) })
		}
		got := append(b.pairs(b.count(9, 3), fs...), nil)
		b.rows = append(b.rows, row{what: kind.what, unit: gigabits, ours: got[0], peer: got[1], name: "Docker", target: targetThroughput})
	}
}

func rate(t testkit.TB, out string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		t.Fatalf("the sender printed %q", out)
	}
	return n
}

// netSide is one engine with a receiver, a sender and a neighbour: a namespace
// of its own, joined to the engine's by a veth pair, that stands for another machine.
type netSide struct {
	b         *bench
	d         *testkit.Daemon
	sink      string
	neighbour *exec.Cmd
	nettool   string
}

const (
	engineAddr    = "192.0.2.1"
	neighbourAddr = "192.0.2.2"
)

func (b *bench) netSide(d *testkit.Daemon) *netSide {
	b.t.Helper()
	d.Docker("run", "-d", "--name", "sink", "-p", "5201:5201", "nettool", "nettool", "sink", ":5201")
	d.Docker("run", "-d", "--name", "sender", "nettool", "sleep", "1000")
	s := &netSide{b: b, d: d}
	s.sink = d.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "sink")
	if s.sink == "" {
		s.sink = d.Docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "sink")
	}
	s.nettool = filepath.Join(d.Dir(), "nettool")
	d.Docker("cp", "sink:/bin/nettool", s.nettool)

	s.neighbour = exec.CommandContext(context.Background(), "unshare", "-n", "sleep", "infinity")
	if err := s.neighbour.Start(); err != nil {
		b.t.Fatalf("start the neighbour: %v", err)
	}
	pid := strconv.Itoa(s.neighbour.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	d.Eventually(10*time.Second, "the neighbour has its namespace", func() (bool, string) {
		l, err := os.Readlink("/proc/" + pid + "/ns/net")
		return err == nil && l != own, l
	})
	d.Exec("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns", pid)
	d.Exec("ip", "addr", "add", engineAddr+"/24", "dev", "wire0")
	d.Exec("ip", "link", "set", "wire0", "up")
	s.inNeighbour("ip", "addr", "add", neighbourAddr+"/24", "dev", "wire1")
	s.inNeighbour("ip", "link", "set", "wire1", "up")
	d.Eventually(10*time.Second, "both receivers listen", func() (bool, string) {
		out, err := s.neighbourCommand(s.nettool, "send", engineAddr+":5201", "0").CombinedOutput()
		return err == nil, string(out)
	})
	return s
}

func (s *netSide) neighbourCommand(args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), "nsenter", append([]string{"-t", strconv.Itoa(s.neighbour.Process.Pid), "-n", "--"}, args...)...)
}

func (s *netSide) inNeighbour(args ...string) {
	s.b.t.Helper()
	if out, err := s.neighbourCommand(args...).CombinedOutput(); err != nil {
		s.b.t.Fatalf("%q in the neighbour: %v: %s", args, err, out)
	}
}

func (s *netSide) fromNeighbour(seconds string) string {
	s.b.t.Helper()
	out, err := s.neighbourCommand(s.nettool, "send", engineAddr+":5201", seconds).Output()
	if err != nil {
		s.b.t.Fatalf("send to the published port: %v", err)
	}
	return string(out)
}

func (s *netSide) close() {
	s.d.Docker("rm", "-f", "sink", "sender")
	if err := s.neighbour.Process.Kill(); err != nil {
		s.b.t.Errorf("end the neighbour: %v", err)
	}
	_ = s.neighbour.Wait() // always "signal: killed"
}

// dockerVersion is what a daemon says it is.
func dockerVersion(d *testkit.Daemon) string {
	var v struct{ Version, KernelVersion string }
	_, body := d.API(http.MethodGet, "/version", nil)
	if err := json.Unmarshal(body, &v); err != nil {
		return err.Error()
	}
	return v.Version
}
