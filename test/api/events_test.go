package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// Whole streams of events, in order and with all attributes, for the lives of a
// container, a volume, a network and an image. What ours says is in
// testdata/events/*.txt; HF_ENGINE=dockerd holds the same files against Docker,
// with the differences of eventDifferences. HF_UPDATE_GOLDEN=1 writes them anew.

// step is one deed and the events that it must bring.
type step struct {
	// do is a command line of docker, "api METHOD PATH", or "leave PATH": a client
	// that takes the streams and then types the key a, by which it detaches. DIR is a
	// folder of the test, and · is a space inside a word.
	do string
	// until names the actions that end the step, where they come after the reply,
	// and times how often each comes; 0 is once.
	until string
	times int
	// fails: the command ends with an error, as intended.
	fails bool
	// notTwin: 20.10 does not get there; see where it is used.
	notTwin bool
	// unordered: some of the step's events come from things that run side by side.
	unordered bool
}

// recorder collects a daemon's events.
type recorder struct {
	t   *testing.T
	d   *testkit.Daemon
	dir string

	mu   sync.Mutex // guards got
	got  []apiEvent
	seen map[string]string // IDs as they are called in the files
	next int
}

func record(t *testing.T, d *testkit.Daemon, query string) *recorder {
	t.Helper()
	r := &recorder{t: t, d: d, dir: t.TempDir(), seen: map[string]string{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.d.Socket())
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1)
	go func() {
		defer close(done)
		resp, err := c.Do(req)
		if ready <- err; err != nil {
			return
		}
		defer resp.Body.Close()
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			var e apiEvent
			if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
				t.Errorf("event %s: %v", sc.Text(), err)
				return
			}
			r.mu.Lock()
			r.got = append(r.got, e)
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	if err := <-ready; err != nil {
		t.Fatalf("open the stream: %v", err)
	}
	return r
}

func (r *recorder) since(n int) []apiEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[n:])
}

// leave takes over a connection and detaches by its key.
func (r *recorder) leave(path string) {
	r.t.Helper()
	body := "{}"
	if name, ok := strings.CutPrefix(path, "/exec-in/"); ok {
		code, out := r.d.API(http.MethodPost, "/containers/"+name+"/exec", `{"Cmd":["sh","-c","echo up; exec sleep 600"],"Tty":true,"AttachStdin":true,"AttachStdout":true,"DetachKeys":"a"}`)
		var made struct{ ID string }
		if err := json.Unmarshal(out, &made); err != nil || code != http.StatusCreated {
			r.t.Errorf("make an exec: %d %s", code, out)
			return
		}
		path, body = "/exec/"+made.ID+"/start", `{"Tty":true}`
	}
	c, err := net.Dial("unix", r.d.Socket())
	if err != nil {
		r.t.Error(err)
		return
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(settle)); err != nil {
		r.t.Error(err)
	}
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		r.t.Errorf("take over %s: %v, %v", path, resp, err)
		return
	}
	if strings.HasPrefix(path, "/exec/") { // one that is not there yet cannot be left
		if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != "up" {
			r.t.Errorf("%s: %q, %v", path, line, err)
		}
	}
	if _, err := c.Write([]byte("a")); err != nil {
		r.t.Error(err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // until the daemon ends it
		r.t.Errorf("%s does not end: %v", path, err)
	}
}

const markPrefix = "mark-of-a-step-"

// do runs a step and returns its events as lines.
func (r *recorder) do(s step) []string {
	r.t.Helper()
	r.next++
	before := len(r.since(0))
	f := strings.Fields(strings.ReplaceAll(s.do, "DIR", r.dir))
	for i := range f {
		f[i] = strings.ReplaceAll(f[i], "·", " ")
	}
	if f[0] == "leave" {
		r.leave(f[1])
	} else if f[0] == "api" {
		if code, out := r.d.API(f[1], f[2], nil); code >= 400 && !s.fails {
			r.t.Errorf("%s: %d %s", s.do, code, out)
		}
	} else if res := r.d.DockerResult(f...); (res.Code != 0) != s.fails {
		r.t.Errorf("%s", res)
	}
	if s.until != "" {
		r.d.Eventually(settle, s.do+" brings "+s.until, func() (bool, string) {
			got := r.since(before)
			for action := range strings.FieldsSeq(s.until) {
				n := 0
				for _, e := range got {
					if strings.HasPrefix(e.Action, action) {
						n++
					}
				}
				if n < max(s.times, 1) {
					return false, fmt.Sprint(got)
				}
			}
			return true, ""
		})
	}
	mark := fmt.Sprintf("%s%d", markPrefix, r.next)
	r.d.API(http.MethodPost, "/volumes/create", `{"Name":"`+mark+`"}`)
	r.d.API(http.MethodDelete, "/volumes/"+mark, nil)
	r.d.Eventually(settle, "the end of "+s.do, func() (bool, string) {
		got := r.since(before)
		return slices.ContainsFunc(got, func(e apiEvent) bool { return e.Actor.ID == mark && e.Action == "destroy" }), fmt.Sprint(got)
	})
	var out []string
	for _, e := range r.since(before) {
		if strings.HasPrefix(e.Actor.ID, markPrefix) {
			continue
		}
		out = append(out, r.line(e))
	}
	if s.unordered {
		slices.Sort(out)
	}
	return out
}

var (
	imageID = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	plainID = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	// Numbers of which only that they are there can be foretold.
	duration = regexp.MustCompile(`(execDuration)=[0-9]+|(reclaimed)=[1-9][0-9]*`)
)

// line writes an event so that two runs say the same.
func (r *recorder) line(e apiEvent) string {
	if e.Type == "container" && r.seen[e.Actor.ID] == "" {
		r.seen[e.Actor.ID] = "<" + e.Actor.Attributes["name"] + ">"
	}
	if e.Type == "network" && r.seen[e.Actor.ID] == "" {
		r.seen[e.Actor.ID] = "<" + e.Actor.Attributes["name"] + ">"
	}
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		v := e.Actor.Attributes[k]
		if k == "execID" {
			v = "<exec>"
		}
		attrs = append(attrs, k+"="+v)
	}
	line := strings.TrimRight(fmt.Sprintf("%s %s %s (%s)", e.Type, strings.TrimSpace(e.Action), e.Actor.ID, strings.Join(attrs, ", ")), " ")
	name := func(kind string) func(string) string {
		return func(id string) string {
			if r.seen[id] == "" {
				r.seen[id] = fmt.Sprintf("<%s %d>", kind, len(r.seen)+1)
			}
			return r.seen[id]
		}
	}
	line = imageID.ReplaceAllStringFunc(line, name("image"))
	line = plainID.ReplaceAllStringFunc(line, name("id"))
	return duration.ReplaceAllString(line, "$1$2=<n>")
}

// eventDifference is where Docker 20.10, Debian's, says something else than newer
// ones and we.
type eventDifference struct {
	step    string // below the command lines that this matches; empty: all
	pattern string // what is in our file
	instead string // what 20.10 says
	why     string
}

const (
	mountOfLife   = "  volume mount data (container=<life>, destination=/data, driver=local, propagation=, read/write=true)\n"
	unmountOfLife = "  volume unmount data (container=<life>, driver=local)\n"
	createOfData  = "  volume create data (driver=local)\n"
	createOfVol   = "  volume create vol (driver=local)\n"
)

var eventDifferences = []eventDifference{
	{
		pattern: `(  container die <.*> \(.*)execDuration=<n>, `, instead: "$1",
		why: "how long a container ran is told since 23.0",
	},
	{
		pattern: `((?:  (?:network disconnect|volume unmount) .*\n)+)(  container die .*\n)`, instead: "$2$1",
		why: "an end was told of before network and volumes were taken away, not after",
	},
	{
		pattern: `((?:  volume mount .*\n)+)((?:  network connect .*\n)+)`, instead: "$2$1",
		why: "the network was made before volumes were mounted, not when the task is there",
	},
	{
		step: `^network disconnect`, pattern: `  network disconnect .*\n`, instead: "$0$0",
		why: "a disconnect was told of twice",
	},
	{step: `--name life`, pattern: `\A`, instead: createOfData, why: "volumes that were there were told of as created"},
	{step: `--name user`, pattern: `\A`, instead: createOfVol + createOfVol, why: "as above"},
	{step: `--name keeps|^volume create vol$`, pattern: `\A`, instead: createOfVol, why: "as above"},
	{
		step: `^cp lively:`, pattern: `  container archive-path .*\n`, instead: mountOfLife + "$0" + unmountOfLife,
		why: "Docker, newer ones too, mounts the volumes once more for a copy; we enter the container that has them",
	},
	{
		step: `^cp .* lively:`, pattern: `  container extract-to-dir .*\n`, instead: mountOfLife + unmountOfLife + mountOfLife + "$0" + unmountOfLife,
		why: "as above, and once for a look at where it goes",
	},
	{
		step: `prune -f$`, pattern: `reclaimed=<n>`, instead: "reclaimed=0",
		why: "layers are measured as the disk does and blobs count, as in Docker with containerd's store",
	},
	{
		step: `^image prune`, pattern: `  image untag .*\n`, instead: "",
		why: "an image without a name is told of as untagged with containerd's store only",
	},
	{
		step: `^rmi 127`, pattern: `(image untag (<.*>)) \(.*\)`, instead: "$1 (name=$2)",
		why: "the name that was taken away is told with containerd's store only",
	},
	{
		step: `^rmi imported:1`, pattern: `(image untag (<.*>)) \(.*\)`, instead: "$1 (l=m, name=$2)",
		why: "as above, and labels without containerd's store only",
	},
	{
		step: `^rmi imported:2`, pattern: `(image untag (<.*>)) \(.*\)`, instead: "$1 (name=$2)",
		why: "as above",
	},
	{
		step: `^volume prune`, pattern: `  volume destroy .*\n`, instead: "",
		why: "what a prune took was not told of one by one",
	},
}

// tell runs the steps and holds the stream against the file.
func tell(t *testing.T, story string, r *recorder, steps []step) {
	t.Helper()
	var b bytes.Buffer
	for _, s := range steps {
		if s.notTwin && engine == testkit.Dockerd {
			continue
		}
		fmt.Fprintf(&b, "$ %s\n", s.do)
		for _, l := range r.do(s) {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	file := filepath.Join("testdata", "events", story+".txt")
	if os.Getenv("HF_UPDATE_GOLDEN") != "" && engine != testkit.Dockerd {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ours := string(want)
	if engine == testkit.Dockerd {
		ours = asDocker2010(ours, steps)
	}
	if got := b.String(); got != ours {
		t.Errorf("the events are not those of %s:\n%s", file, diffLines(ours, got))
	}
}

// usedDifferences are those that made one in this process: one that never does
// is to be taken out.
var usedDifferences sync.Map

func asDocker2010(text string, steps []step) string {
	parts := strings.Split(text, "$ ")[1:]
	var out strings.Builder
	for i, part := range parts {
		if i < len(steps) && steps[i].notTwin {
			continue
		}
		line, body, _ := strings.Cut(part, "\n")
		for k, d := range eventDifferences {
			if d.step != "" && !regexp.MustCompile(d.step).MatchString(line) {
				continue
			}
			next := regexp.MustCompile(d.pattern).ReplaceAllString(body, d.instead)
			if next != body {
				usedDifferences.Store(k, true)
			}
			body = next
		}
		if i < len(steps) && steps[i].unordered {
			lines := slices.Sorted(strings.Lines(body))
			body = strings.Join(lines, "")
		}
		fmt.Fprintf(&out, "$ %s\n%s", line, body)
	}
	return out.String()
}

// The list holds nothing that is none. Comes after the tests above, if they ran.
func TestEventsZDifferencesAreSome(t *testing.T) {
	if engine != testkit.Dockerd {
		t.Skip("for the twin: HF_ENGINE=dockerd")
	}
	n := 0
	usedDifferences.Range(func(any, any) bool { n++; return true })
	if n == 0 {
		t.Skip("run with the tests of events")
	}
	for k, d := range eventDifferences {
		if _, used := usedDifferences.Load(k); !used {
			t.Errorf("%s: %q is no difference any more", d.step, d.pattern)
		}
	}
}

// diffLines shows two texts side by side where they differ, line by line.
func diffLines(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			fmt.Fprintf(&out, "   %s\n", a[0])
			a, b = a[1:], b[1:]
		case len(a) > 0 && (len(b) == 0 || !slices.Contains(b, a[0])):
			fmt.Fprintf(&out, "-  %s\n", a[0])
			a = a[1:]
		case len(b) > 0:
			fmt.Fprintf(&out, "+  %s\n", b[0])
			b = b[1:]
		default:
			fmt.Fprintf(&out, "-  %s\n", a[0])
			a = a[1:]
		}
	}
	return out.String()
}

func TestEventsOfAContainer(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	tell(t, "container", record(t, d, ""), []step{
		{do: "volume create data"},
		{do: "network create net"},
		{do: "create --name life --label k=v --label a=b -v data:/data -v /ro:/anon --network net --stop-signal TERM -t busybox sleep 600"},
		{do: "start life"},
		{do: "exec life true", until: "exec_die"},
		{do: "exec -e X=1 life sh -c false", until: "exec_die", fails: true},
		{do: "exec life nosuchprogram", fails: true},
		{do: "api POST /containers/life/resize?h=20&w=70"},
		{do: "rename life lively"},
		{do: "update --cpu-shares 512 lively"},
		{do: "pause lively"},
		{do: "unpause lively"},
		{do: "top lively"},
		{do: "logs lively"},
		{do: "stats --no-stream lively"},
		{do: "diff lively"},
		{do: "commit --change LABEL·x=y lively snap:1"},
		{do: "cp lively:/etc/hostname DIR/hostname"},
		{do: "cp /etc/passwd lively:/tmp"},
		{do: "export -o DIR/box.tar lively"},
		{do: "kill -s USR1 lively"},
		{do: "restart -t 0 lively"},
		{do: "stop -t 0 lively"},
		{do: "start lively"},
		{do: "kill lively", until: "die"},
		{do: "wait lively"},
		{do: "rm -v lively"},
		{do: "run --rm --name brief busybox sh -c true", until: "destroy"},
		{do: "run --name exits busybox sh -c exit·3", fails: true, until: "die"},
		{do: "start -a exits", until: "die", fails: true},
		{do: "rm exits"},
		{do: "run -d --name again --restart on-failure:1 busybox false", until: "die disconnect", times: 2, unordered: true},
		{do: "rm -f again"},
		{do: "run --name broken busybox nosuchprogram", fails: true},
		{do: "rm broken"},
		{do: "run -d --name forced busybox sleep 600"},
		{do: "rm -f forced"},
		{do: "run -dit --name shell --detach-keys ctrl-x busybox sh"},
		{do: "leave /containers/shell/attach?stream=1&stdin=1&stdout=1&detachKeys=a", until: "detach"},
		// There an exec with a terminal ends by itself, with 127, when its client comes this way.
		{do: "leave /exec-in/shell", until: "exec_detach", notTwin: true},
		{do: "api POST /containers/shell/attach?stream=0&logs=1&stdout=1"},
		{do: "exec shell killall sleep", until: "exec_die", times: 2, unordered: true, notTwin: true},
		{do: "exec -d shell true", until: "exec_die"},
		{do: "rm -f shell"},
		{do: "create --name pruned busybox true"},
		{do: "container prune -f"},
	})
}

// The rare ones, by a stream that asks for some kinds only.
func TestEventsOfHealthAndMemory(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	tell(t, "health", record(t, d, `filters={"event":["create","start","restart","health_status","oom","die","destroy"],"type":["container","volume"]}`), []step{
		{do: "run -d --name well --health-cmd test·!·-e·/ill --health-interval 100ms --health-retries 1 busybox sleep 600", until: "health_status"},
		{do: "exec well touch /ill", until: "health_status"},
		{do: "rm -f well"},
		{do: "run --name eater --memory 16m busybox sh -c exec·dd·if=/dev/zero·of=/dev/null·bs=100M·count=1", fails: true, until: "die", unordered: true},
		{do: "rm eater"},
	})
}

func TestEventsOfAVolume(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	tell(t, "volume", record(t, d, ""), []step{
		{do: "volume create --label k=v vol"},
		{do: "volume create vol"},
		{do: "run --rm --name user -v vol:/rw -v vol:/ro:ro -v /anon busybox true", until: "destroy", unordered: true},
		{do: "create --name keeps -v vol:/there --mount type=tmpfs,target=/t --mount type=volume,target=/fresh busybox true"},
		{do: "rm -v keeps"},
		{do: "volume rm vol"},
		{do: "create --name lone -v /lonely busybox true"},
		{do: "rm lone"},
		{do: "volume prune -f"},
	})
}

func TestEventsOfANetwork(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	tell(t, "network", record(t, d, ""), []step{
		{do: "network create --label k=v one"},
		{do: "network create --internal two"},
		{do: "run -d --name on --network one busybox sleep 600"},
		{do: "network connect --alias x two on"},
		{do: "network disconnect one on"},
		{do: "network disconnect -f two on"},
		{do: "network connect one on"},
		{do: "stop -t 0 on"},
		{do: "network connect two on"},
		{do: "start on", unordered: true}, // Docker keeps networks in no order
		{do: "network disconnect two on"},
		{do: "rm -f on"},
		{do: "network rm one"},
		{do: "network prune -f"},
	})
}

func TestEventsOfAnImage(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	newRegistry(t, d, registryOptions{})
	r := record(t, d, "")
	if err := os.WriteFile(filepath.Join(r.dir, "rootfs.tar"), make([]byte, 1024), 0o600); err != nil { // an empty archive
		t.Fatal(err)
	}
	tell(t, "image", r, []step{
		{do: "tag busybox 127.0.0.1:5000/box:1"},
		{do: "push -q 127.0.0.1:5000/box:1"},
		{do: "rmi 127.0.0.1:5000/box:1"},
		{do: "pull -q 127.0.0.1:5000/box:1"},
		{do: "save -o DIR/box.tar 127.0.0.1:5000/box:1"},
		{do: "rmi 127.0.0.1:5000/box:1"},
		{do: "load -q -i DIR/box.tar"},
		{do: "import --change LABEL·l=m DIR/rootfs.tar imported:1"},
		{do: "tag imported:1 imported:2"},
		{do: "tag busybox imported:2"},
		{do: "rmi imported:1"},
		{do: "rmi imported:2"},
		{do: "import DIR/rootfs.tar"},
		{do: "image prune -f"},
	})
}

// Filters and windows take out of a stream exactly what they say.
func TestEventFilters(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	d.Docker("network", "create", "evnet")
	d.Docker("volume", "create", "evvol")
	d.Docker("run", "--name", "one", "--label", "who=me", "--label", "tier", "--network", "evnet", "-v", "evvol:/data", "busybox", "true")
	d.Docker("tag", "busybox", "evbox:1")
	d.Docker("run", "--name", "two", "--label", "who=you", "evbox:1", "true")
	id := format(d, "one", "{{.Id}}")
	d.Eventually(settle, "both are told to have ended", func() (bool, string) {
		out := d.Docker("events", "--since", "1", "--until", "1s", "--filter", "event=die", "--format", "{{.Actor.Attributes.name}}")
		return strings.Contains(out, "one") && strings.Contains(out, "two"), out
	})
	d.Docker("rm", "one", "two")
	var all []apiEvent
	d.Eventually(settle, "the last event", func() (bool, string) {
		all = pastEvents(t, d, "")
		return slices.ContainsFunc(all, func(e apiEvent) bool { return e.Action == "destroy" && e.Actor.Attributes["name"] == "two" }), fmt.Sprint(all)
	})
	middle := all[len(all)/2].TimeNano
	stamp := fmt.Sprintf("%d.%09d", middle/1e9, middle%1e9)
	last := all[len(all)-1].TimeNano + 1
	end := fmt.Sprintf("%d.%09d", last/1e9, last%1e9)
	attr := func(k, v string) func(apiEvent) bool {
		return func(e apiEvent) bool { return e.Actor.Attributes[k] == v }
	}
	isType := func(v string) func(apiEvent) bool { return func(e apiEvent) bool { return e.Type == v } }
	and := func(fs ...func(apiEvent) bool) func(apiEvent) bool {
		return func(e apiEvent) bool {
			return !slices.ContainsFunc(fs, func(f func(apiEvent) bool) bool { return !f(e) })
		}
	}
	or := func(fs ...func(apiEvent) bool) func(apiEvent) bool {
		return func(e apiEvent) bool {
			return slices.ContainsFunc(fs, func(f func(apiEvent) bool) bool { return f(e) })
		}
	}
	action := func(v string) func(apiEvent) bool { return func(e apiEvent) bool { return e.Action == v } }
	for _, c := range []struct {
		args string
		keep func(apiEvent) bool
		none bool // as intended
	}{
		{"", func(apiEvent) bool { return true }, false},
		{"--filter type=network", isType("network"), false},
		{"--filter type=volume --filter type=image", or(isType("volume"), isType("image")), false},
		{"--filter event=create", action("create"), false},
		{"--filter event=create --filter event=die --filter type=container", and(isType("container"), or(action("create"), action("die"))), false},
		{"--filter container=one", and(isType("container"), attr("name", "one")), false},
		{"--filter container=" + id, and(isType("container"), attr("name", "one")), false},
		{"--filter container=one --filter container=two --filter event=start", and(isType("container"), action("start")), false},
		{"--filter image=evbox:1", or(attr("image", "evbox:1"), attr("name", "evbox:1")), false},
		{"--filter label=who=me", attr("who", "me"), false},
		{"--filter label=tier", attr("name", "one"), false},
		{"--filter label=who --filter label=tier", attr("who", "me"), false},
		{"--filter volume=evvol", and(isType("volume"), func(e apiEvent) bool { return e.Actor.ID == "evvol" }), false},
		{"--filter network=evnet", and(isType("network"), attr("name", "evnet")), false},
		{"--filter scope=local", func(apiEvent) bool { return true }, false},
		{"--filter scope=swarm", func(apiEvent) bool { return false }, true},
		{"--filter event=nosuch", func(apiEvent) bool { return false }, true},
		{"--since " + stamp, func(e apiEvent) bool { return e.TimeNano >= middle }, false},
		{"--since " + stamp + " --filter type=container", and(isType("container"), func(e apiEvent) bool { return e.TimeNano >= middle }), false},
	} {
		args := []string{"events", "--format", "json", "--until", end}
		if !strings.Contains(c.args, "--since") {
			args = append(args, "--since", "1")
		}
		var want, got []string
		show := func(e apiEvent) string { return fmt.Sprintf("%s %s %s %d", e.Type, e.Action, e.Actor.ID, e.TimeNano) }
		for _, e := range all {
			if c.keep(e) {
				want = append(want, show(e))
			}
		}
		for line := range strings.Lines(d.Docker(append(args, strings.Fields(c.args)...)...)) {
			var e apiEvent
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Errorf("%s: %q is not JSON: %v", c.args, line, err)
				continue
			}
			got = append(got, show(e))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s", c.args, diffLines(strings.Join(want, "\n"), strings.Join(got, "\n")))
		}
		if (len(want) == 0) != c.none {
			t.Errorf("%s: the test wants %d events", c.args, len(want))
		}
	}
}
