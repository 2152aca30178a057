package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// chaosTime is how long a chaos test goes on: a short form by default, longer by
// HF_CHAOS_DURATION.
func chaosTime(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	v := os.Getenv("HF_CHAOS_DURATION")
	if v == "" {
		return short
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("HF_CHAOS_DURATION: %v", err)
	}
	return d
}

// chaosSeed makes runs differ, and lets one be done again by HF_CHAOS_SEED.
func chaosSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64N(1 << 32)
	if v := os.Getenv("HF_CHAOS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("HF_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("HF_CHAOS_SEED=%d", seed)
	return seed
}

// belief is what an actor knows of one thing of its own: the last answer it got,
// or that it got none.
type belief struct {
	sure    bool // else anything may be true
	exists  bool
	running bool // of containers that nobody restarts
	loose   bool // whether it runs is not known: it ends, or restarts, by itself
	id      string
}

// actor does random things to things of its own, so that it knows what must be true.
type actor struct {
	t    *testing.T
	d    *testkit.Daemon
	name string
	rng  *rand.Rand

	things map[string]*belief // "containers/a0-c1"
	done   []string           // of this round, for failures
	ended  bool               // the daemon was killed under a request
}

func (a *actor) pick(kind string, n int) (path string, b *belief) {
	key := fmt.Sprintf("%s/%s-%s%d", kind, a.name, kind[:1], a.rng.IntN(n))
	b = a.things[key]
	if b == nil {
		b = &belief{sure: true}
		a.things[key] = b
	}
	return key, b
}

// do sends a request. ok is whether it was answered at all.
func (a *actor) do(method, path string, body any) (code int, reply []byte, ok bool) {
	var r io.Reader
	if raw, is := body.([]byte); is {
		r = bytes.NewReader(raw)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			a.t.Errorf("encode: %v", err)
			return 0, nil, false
		}
		r = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://d/v1.47"+path, r)
	if err != nil {
		a.t.Errorf("request: %v", err)
		return 0, nil, false
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client().Do(req)
	if err == nil {
		defer resp.Body.Close()
		reply, err = io.ReadAll(resp.Body)
	}
	if err != nil {
		a.ended = true
		a.done = append(a.done, method+" "+path+": cut off")
		if ctx.Err() != nil {
			a.t.Errorf("%s: %s %s is not answered", a.name, method, path)
		}
		return 0, nil, false
	}
	line := fmt.Sprintf("%s %s: %d %s", method, path, resp.StatusCode, bytes.TrimSpace(reply[:min(len(reply), 160)]))
	a.done = append(a.done, line)
	if resp.StatusCode >= 500 && !dockersOwn.Match(reply) {
		a.t.Errorf("%s: %s", a.name, line)
	}
	return resp.StatusCode, reply, true
}

// dockersOwn are errors that Docker, too, answers with 500 where the world has
// changed under a request.
var dockersOwn = regexp.MustCompile(`is not connected to (the )?network|OCI runtime exec failed`)

func (a *actor) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return a.d.DialAPI(ctx) },
	}}
}

// change is one request about b: unsure until it is answered.
func (a *actor) change(b *belief, method, path string, body any, then func(code int, reply []byte)) {
	was := *b
	b.sure = false
	code, reply, ok := a.do(method, path, body)
	if !ok {
		return
	}
	b.sure = was.sure
	then(code, reply)
}

var chaosCommands = []struct {
	cmd     []string
	lasting bool
}{
	{[]string{"sleep", "600"}, true},
	{[]string{"sleep", "600"}, true},
	{[]string{"sh", "-c", "echo hello; exit 3"}, false},
	{[]string{"sh", "-c", "while :; do echo x; sleep 0.01; done"}, true},
	{[]string{"true"}, false},
}

func (a *actor) create() {
	key, b := a.pick("containers", 4)
	if b.exists {
		return
	}
	c := chaosCommands[a.rng.IntN(len(chaosCommands))]
	host := map[string]any{}
	if a.rng.IntN(2) == 0 {
		host["Binds"] = []string{a.name + "-v" + strconv.Itoa(a.rng.IntN(2)) + ":/data", "/anon"}
	}
	loose := !c.lasting
	switch a.rng.IntN(6) {
	case 0:
		host["AutoRemove"] = true
		loose = true
	case 1:
		host["RestartPolicy"] = map[string]any{"Name": "always"}
		loose = true
	case 2:
		host["PortBindings"] = map[string]any{"80/tcp": []map[string]string{{"HostPort": "0"}}}
	case 3:
		if key, n := a.pick("networks", 2); n.exists && n.sure {
			host["NetworkMode"] = strings.TrimPrefix(key, "networks/")
		}
	}
	name := strings.TrimPrefix(key, "containers/")
	a.change(b, http.MethodPost, "/containers/create?name="+name,
		map[string]any{"Image": "busybox", "Cmd": c.cmd, "HostConfig": host}, func(code int, reply []byte) {
			if code == 201 {
				var r struct{ ID string }
				decode(a.t, reply, &r)
				*b = belief{sure: true, exists: true, loose: loose, id: r.ID}
			}
		})
}

func (a *actor) container(verb, query string, then func(b *belief, code int)) {
	key, b := a.pick("containers", 4)
	a.change(b, http.MethodPost, "/"+key+"/"+verb+query, nil, func(code int, reply []byte) {
		if b.sure && !b.loose && b.exists && bytes.Contains(reply, []byte("No such container")) {
			a.t.Errorf("%s: %s is gone", a.name, key)
		}
		then(b, code)
	})
}

func done(code int) bool { return code < 300 || code == http.StatusNotModified }

func (a *actor) exec() {
	key, b := a.pick("containers", 4)
	if !b.running {
		return
	}
	code, reply, ok := a.do(http.MethodPost, "/"+key+"/exec", map[string]any{"Cmd": []string{"sleep", "0.05"}, "AttachStdout": true})
	if !ok || code != 201 {
		return
	}
	var e struct{ ID string }
	decode(a.t, reply, &e)
	a.do(http.MethodPost, "/exec/"+e.ID+"/start", map[string]any{"Detach": a.rng.IntN(2) == 0})
}

func (a *actor) commit() {
	_, c := a.pick("containers", 4)
	if !c.exists || !c.sure {
		return
	}
	key, b := a.pick("images", 2)
	repo := strings.TrimPrefix(key, "images/")
	a.change(b, http.MethodPost, "/commit?container="+c.id+"&repo="+repo+"&tag=latest", nil, func(code int, _ []byte) {
		if code == 201 {
			*b = belief{sure: true, exists: true}
		}
	})
}

func (a *actor) load() {
	key, b := a.pick("images", 2)
	ref := strings.TrimPrefix(key, "images/")
	body := make([]byte, 256<<10)
	for i := range body {
		body[i] = byte(a.rng.Uint32())
	}
	layer := testkit.Layer{"f": {Body: string(body)}}.Tar()
	spec := testkit.ImageSpec{Ref: ref + ":latest", Layers: [][]byte{layer}}
	a.change(b, http.MethodPost, "/images/load", spec.Archive(), func(code int, reply []byte) {
		if code == 200 && bytes.Contains(reply, []byte("Loaded image")) {
			*b = belief{sure: true, exists: true}
		}
	})
}

// step does one random thing.
func (a *actor) step() {
	switch n := a.rng.IntN(30); n {
	case 0, 1, 2, 3, 4:
		a.create()
	case 5, 6, 7, 8, 9:
		a.container("start", "", func(b *belief, code int) {
			if done(code) {
				b.running = true
			}
		})
	case 10, 11:
		a.container("stop", "?t=0", func(b *belief, code int) {
			if done(code) {
				b.running = false
			}
		})
	case 12:
		a.container("kill", "", func(b *belief, code int) {
			if done(code) {
				b.running = false
			}
		})
	case 13:
		a.container("restart", "?t=0", func(b *belief, code int) {
			if done(code) {
				b.running = true
			}
		})
	case 14:
		a.container("pause", "", func(*belief, int) {})
	case 15:
		a.container("unpause", "", func(*belief, int) {})
	case 16, 17, 18:
		key, b := a.pick("containers", 4)
		a.change(b, http.MethodDelete, "/"+key+"?force=1&v=1", nil, func(code int, _ []byte) {
			if code == 204 || code == 404 {
				*b = belief{sure: true}
			}
		})
	case 19, 20:
		a.exec()
	case 21:
		a.commit()
	case 22:
		a.load()
	case 23:
		key, b := a.pick("images", 2)
		a.change(b, http.MethodDelete, "/"+key+"?force=1", nil, func(code int, _ []byte) {
			if code == 200 || code == 404 {
				*b = belief{sure: true}
			}
		})
	case 24:
		key, b := a.pick("volumes", 2)
		a.change(b, http.MethodPost, "/volumes/create", map[string]any{"Name": strings.TrimPrefix(key, "volumes/")}, func(code int, _ []byte) {
			if code == 201 {
				*b = belief{sure: true, exists: true}
			}
		})
	case 25:
		key, b := a.pick("volumes", 2)
		a.change(b, http.MethodDelete, "/"+key, nil, func(code int, _ []byte) {
			if code == 204 || code == 404 {
				*b = belief{sure: true}
			}
		})
	case 26:
		key, b := a.pick("networks", 2)
		a.change(b, http.MethodPost, "/networks/create", map[string]any{"Name": strings.TrimPrefix(key, "networks/")}, func(code int, _ []byte) {
			if code == 201 || code == 409 {
				*b = belief{sure: true, exists: true}
			}
		})
	case 27:
		key, b := a.pick("networks", 2)
		a.change(b, http.MethodDelete, "/"+key, nil, func(code int, _ []byte) {
			if code == 204 || code == 404 {
				*b = belief{sure: true}
			}
		})
	default:
		net, _ := a.pick("networks", 2)
		ctr, _ := a.pick("containers", 4)
		verb := []string{"connect", "disconnect"}[a.rng.IntN(2)]
		a.do(http.MethodPost, "/"+net+"/"+verb, map[string]any{"Container": strings.TrimPrefix(ctr, "containers/"), "Force": true})
	}
}

// forgetRunning is for when the machine has ended containers.
func (a *actor) forgetRunning() {
	for _, b := range a.things {
		b.loose = b.loose || b.running
	}
}

// check holds what the actor knows against the daemon that was just started.
func (a *actor) check() {
	for key, b := range a.things {
		code, body := a.d.API(http.MethodGet, "/"+key+"/json", nil)
		if kind, _, _ := strings.Cut(key, "/"); kind == "volumes" || kind == "networks" {
			code, body = a.d.API(http.MethodGet, "/"+key, nil)
		}
		if code != 200 && code != 404 {
			a.t.Errorf("%s: %d %s", key, code, body)
			continue
		}
		exists := code == 200
		if b.sure && !b.loose && exists != b.exists && !strings.HasPrefix(key, "volumes") {
			a.t.Errorf("%s: was told exists=%t, is %t", key, b.exists, exists)
		}
		// A volume is also made, and an unused one stays, by a create that was cut off.
		if b.sure && b.exists && !exists && strings.HasPrefix(key, "volumes") {
			a.t.Errorf("%s: is gone", key)
		}
		if !strings.HasPrefix(key, "containers") {
			*b = belief{sure: true, exists: exists}
			continue
		}
		if !exists {
			*b = belief{sure: true}
			continue
		}
		var c struct {
			ID    string
			State struct {
				Status  string
				Running bool
				Pid     int
			}
			HostConfig struct {
				AutoRemove    bool
				RestartPolicy struct{ Name string }
			}
			Config struct{ Cmd []string }
		}
		decode(a.t, body, &c)
		if b.sure && !b.loose && b.running != c.State.Running {
			a.t.Errorf("%s: was told running=%t, is %s", key, b.running, c.State.Status)
		}
		if c.State.Running {
			group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.State.Pid))
			if !bytes.Contains(group, []byte(c.ID)) && c.HostConfig.RestartPolicy.Name == "" {
				// One that ends by itself may have ended since.
				if _, again := a.d.API(http.MethodGet, "/"+key+"/json", nil); bytes.Contains(again, []byte(`"Pid":`+strconv.Itoa(c.State.Pid)+",")) {
					a.t.Errorf("%s: is %s, but process %d is not it: %v %s", key, c.State.Status, c.State.Pid, err, group)
				}
			}
		}
		loose := c.HostConfig.AutoRemove || c.HostConfig.RestartPolicy.Name != "no" && c.HostConfig.RestartPolicy.Name != "" ||
			len(c.Config.Cmd) == 1 || strings.Contains(strings.Join(c.Config.Cmd, " "), "exit")
		*b = belief{sure: true, exists: true, running: c.State.Running, loose: loose, id: c.ID}
	}
}

// TestChaosKill kills the daemon at random moments of random work. What was
// answered before must be true afterwards, what was not must be done or undone
// whole, and in the end nothing may be left behind.
func TestChaosKill(t *testing.T) {
	notOnTwin(t, "it does not promise this")
	seed := chaosSeed(t)
	end := time.Now().Add(chaosTime(t, 40*time.Second))
	d := own(t, testkit.Options{})
	rng := rand.New(rand.NewPCG(seed, 0))
	var actors []*actor
	for i := range 3 {
		actors = append(actors, &actor{t: t, d: d, name: "a" + strconv.Itoa(i), rng: rand.New(rand.NewPCG(seed, uint64(i)+1)), things: map[string]*belief{}})
	}
	rounds, steps := 0, 0
	for time.Now().Before(end) && !t.Failed() {
		rounds++
		var work sync.WaitGroup
		for _, a := range actors {
			a.done, a.ended = nil, false
			work.Go(func() {
				for !a.ended {
					a.step()
				}
			})
		}
		pause := time.Duration(rng.ExpFloat64() * float64(250*time.Millisecond))
		timer := time.NewTimer(min(pause, 2*time.Second))
		<-timer.C
		d.Kill()
		work.Wait()
		if rng.IntN(8) == 0 {
			d.KillShims()
			for _, a := range actors {
				a.forgetRunning()
			}
		}
		// A new daemon may be killed while it mends what the last one left.
		for rng.IntN(3) == 0 {
			if err := d.Launch(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond)
			d.Kill()
		}
		d.Start()
		for _, a := range actors {
			steps += len(a.done)
			a.check()
			if t.Failed() {
				t.Logf("round %d, %s did:\n  %s", rounds, a.name, strings.Join(a.done, "\n  "))
			}
		}
		if rounds%8 == 0 {
			d.Clean()
			for _, a := range actors {
				a.things = map[string]*belief{}
			}
			checkStore(t, d)
		}
	}
	t.Logf("%d rounds, %d requests", rounds, steps)
}

// checkStore runs a container and reads its data back: after all that, the engine works.
func checkStore(t *testing.T, d *testkit.Daemon) {
	t.Helper()
	equal(t, "run", d.Docker("run", "--rm", "busybox", "echo", "fine"), "fine")
	var v struct{ Volumes []struct{ Name string } }
	d.GetJSON("/volumes", &v)
	if len(v.Volumes) > 0 {
		t.Errorf("volumes left: %v", v.Volumes)
	}
}
