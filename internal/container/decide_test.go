package container

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestDecideRestart(t *testing.T) {
	policy := func(n container.RestartPolicyMode, limit int) container.RestartPolicy {
		return container.RestartPolicy{Name: n, MaximumRetryCount: limit}
	}
	for _, c := range []struct {
		name  string
		in    ending
		again bool
		pause time.Duration
	}{
		{"no policy", ending{policy: policy("no", 0), exitCode: 1}, false, 0},
		{"empty policy", ending{exitCode: 1}, false, 0},
		{"always, clean exit", ending{policy: policy("always", 0)}, true, firstBackoff},
		{"always, asked to stop", ending{policy: policy("always", 0), forbidden: true}, false, 0},
		{"unless-stopped", ending{policy: policy("unless-stopped", 0), exitCode: 3}, true, firstBackoff},
		{"on-failure, clean exit", ending{policy: policy("on-failure", 0)}, false, 0},
		{"on-failure, no limit", ending{policy: policy("on-failure", 0), exitCode: 1, restarts: 99}, true, firstBackoff},
		{"on-failure, limit reached", ending{policy: policy("on-failure", 2), exitCode: 1, restarts: 2}, false, 0},
		{"back-off doubles", ending{policy: policy("always", 0), backoff: 400 * time.Millisecond}, true, 800 * time.Millisecond},
		{"back-off ends", ending{policy: policy("always", 0), backoff: 50 * time.Second}, true, time.Minute},
		{"back-off starts over", ending{policy: policy("always", 0), backoff: time.Minute, ran: settled}, true, firstBackoff},
	} {
		if again, pause := decideRestart(c.in); again != c.again || pause != c.pause {
			t.Errorf("%s: %v after %v, want %v after %v", c.name, again, pause, c.again, c.pause)
		}
	}
}

func TestDecideBoot(t *testing.T) {
	began := time.Unix(1, 0)
	for _, c := range []struct {
		policy  container.RestartPolicyMode
		stopped bool
		code    int
		started time.Time
		want    bool
	}{
		{"no", false, 1, began, false},
		{"always", true, 0, began, true},
		{"always", false, 0, time.Time{}, false},
		{"unless-stopped", true, 0, began, false},
		{"unless-stopped", false, 0, began, true},
		{"on-failure", false, 0, began, false},
		{"on-failure", false, 1, began, true},
		{"on-failure", true, 1, began, false},
	} {
		r := Record{StartedAt: c.started, StoppedByUser: c.stopped, ExitCode: c.code, HostConfig: &container.HostConfig{
			RestartPolicy: container.RestartPolicy{Name: c.policy},
		}}
		if got := decideBoot(r); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestPhaseGate(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("gate", nil)
		c, err := d.lookup(id)
		d.must(err)
		if err := d.to(c, Running, "test", nil); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("created to running: %v", err)
		}
		if p := c.record().Phase; p != Created {
			t.Errorf("an illegal move changed the phase to %s", p)
		}
	})
	for from, tos := range moves {
		for _, to := range tos {
			if _, ok := moves[to]; !ok {
				t.Errorf("%s leads to %s, which is no phase", from, to)
			}
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Unix(10000, 0)
	up := now.Add(-3 * time.Minute)
	for want, r := range map[string]Record{
		"Created":                               {Phase: Created},
		"Up 3 minutes":                          {Phase: Running, StartedAt: up},
		"Up 3 minutes (healthy)":                {Phase: Running, StartedAt: up, Health: &container.Health{Status: container.Healthy}},
		"Up 3 minutes (health: starting)":       {Phase: Stopping, StartedAt: up, Health: &container.Health{Status: container.Starting}},
		"Up 3 minutes (unhealthy)":              {Phase: Running, StartedAt: up, Health: &container.Health{Status: container.Unhealthy}},
		"Up 3 minutes (Paused)":                 {Phase: Paused, StartedAt: up, Health: &container.Health{Status: container.Healthy}},
		"Exited (0) 2 seconds ago":              {Phase: Exited, FinishedAt: now.Add(-2 * time.Second)},
		"Restarting (7) Less than a second ago": {Phase: Restarting, ExitCode: 7, FinishedAt: now},
		"Removal In Progress":                   {Phase: Removing},
		"Dead":                                  {Phase: Dead},
	} {
		if got := status(&r, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMergeConfig(t *testing.T) {
	img := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: "app", Env: []string{"A=image", "B=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}}, Labels: map[string]string{"l": "image", "m": "image"},
			Volumes: map[string]struct{}{"/v": {}}, WorkingDir: "/w", StopSignal: "SIGINT",
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{
			Healthcheck: &container.HealthConfig{Test: []string{"CMD", "ok"}, Retries: 5},
		},
	}
	got, err := mergeConfig(&container.Config{
		Env: []string{"A=user", "C"}, Labels: map[string]string{"l": "user"}, Healthcheck: &container.HealthConfig{Interval: time.Second},
		ExposedPorts: network.PortSet{network.MustParsePort("81/udp"): {}},
	}, img)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Env, []string{"A=user", "C", "B=image"}) || got.User != "app" || got.WorkingDir != "/w" || got.StopSignal != "SIGINT" {
		t.Errorf("%+v", got)
	}
	if got.Labels["l"] != "user" || got.Labels["m"] != "image" || len(got.ExposedPorts) != 2 || len(got.Volumes) != 1 {
		t.Errorf("%+v", got)
	}
	if h := got.Healthcheck; h.Interval != time.Second || h.Retries != 5 || h.Test[1] != "ok" {
		t.Errorf("health %+v", h)
	}

	for _, c := range []struct {
		name            string
		entry, cmd      []string
		path, arguments string
	}{
		{"image's own", nil, nil, "/entry", "serve"},
		{"other command", nil, []string{"a", "b"}, "/entry", "a b"},
		{"other entrypoint drops the command", []string{"x"}, nil, "x", ""},
		{"both", []string{"x"}, []string{"y"}, "x", "y"},
		{"entrypoint taken away", []string{""}, []string{"y"}, "y", ""},
	} {
		got, err := mergeConfig(&container.Config{Entrypoint: c.entry, Cmd: c.cmd}, img)
		if err != nil {
			t.Fatal(err)
		}
		if path, args := command(got); path != c.path || strings.Join(args, " ") != c.arguments {
			t.Errorf("%s: %s %v", c.name, path, args)
		}
	}
	_, err = mergeConfig(&container.Config{}, dockerspec.DockerOCIImageConfig{})
	if err == nil || err.Error() != "no command specified" {
		t.Errorf("no command: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	r := &Record{Config: &container.Config{Hostname: "h", Env: []string{"PATH=/mine", "TERM", "X=1", "X=2"}}}
	want := []string{"PATH=/mine", "HOSTNAME=h", "X=2", "Y=3"}
	if got := environment(r, true, nil, []string{"Y=3"}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCreateRefusals(t *testing.T) {
	int64p := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		want string
		edit func(*container.Config, *container.HostConfig)
	}{
		{"Minimum memory limit allowed is 6MB", func(_ *container.Config, h *container.HostConfig) { h.Memory = 1 << 20 }},
		{"range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available", func(_ *container.Config, h *container.HostConfig) { h.NanoCPUs = 5e9 }},
		{"You should always set the Memory limit when using Memoryswap limit, see usage", func(_ *container.Config, h *container.HostConfig) { h.MemorySwap = 1 << 30 }},
		{"can't create 'AutoRemove' container with restart policy", func(_ *container.Config, h *container.HostConfig) {
			h.AutoRemove, h.RestartPolicy.Name = true, "always"
		}},
		{"invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy.Name = "sometimes"
		}},
		{"the working directory 'w' is invalid, it needs to be an absolute path", func(c *container.Config, _ *container.HostConfig) { c.WorkingDir = "w" }},
		{"invalid environment variable: =x", func(c *container.Config, _ *container.HostConfig) { c.Env = []string{"=x"} }},
		{"Duplicate mount point: /a", func(_ *container.Config, h *container.HostConfig) { h.Binds = []string{"/x:/a", "vv:/a/"} }},
		{"Duplicate mount point: /a", func(_ *container.Config, h *container.HostConfig) {
			h.Binds, h.Tmpfs = []string{"/x:/a"}, map[string]string{"/a": ""}
		}},
		{`invalid mount config for type "bind": bind source path does not exist: /missing`, func(_ *container.Config, h *container.HostConfig) {
			h.Mounts = []mount.Mount{{Type: "bind", Source: "/missing", Target: "/a"}}
		}},
		{`invalid mount config for type "volume": field TmpfsOptions must not be specified`, func(_ *container.Config, h *container.HostConfig) {
			h.Mounts = []mount.Mount{{Type: "volume", Target: "/a", TmpfsOptions: &mount.TmpfsOptions{}}}
		}},
		{`invalid mount config for type "odd": mount type unknown`, func(_ *container.Config, h *container.HostConfig) {
			h.Mounts = []mount.Mount{{Type: "odd", Target: "/a"}}
		}},
		{"invalid mode: nope", func(_ *container.Config, h *container.HostConfig) { h.Binds = []string{"/x:/a:nope"} }},
		{"invalid volume specification: '/a:rw'", func(_ *container.Config, h *container.HostConfig) { h.Binds = []string{"/a:rw"} }},
		{"invalid volume specification: 'v:relative': invalid mount path: 'relative' mount path must be absolute", func(_ *container.Config, h *container.HostConfig) {
			h.Binds = []string{"v:relative"}
		}},
		{"bad format for add-host: \"x\"", func(_ *container.Config, h *container.HostConfig) { h.ExtraHosts = []string{"x"} }},
		{`invalid port specification: "80-x"`, func(_ *container.Config, h *container.HostConfig) {
			h.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "80-x"}}}
		}},
		{`invalid CapAdd: unknown capability: "CAP_FLY"`, func(_ *container.Config, h *container.HostConfig) { h.CapAdd = []string{"fly"} }},
		{`invalid --security-opt 2: "odd=1"`, func(_ *container.Config, h *container.HostConfig) { h.SecurityOpt = []string{"odd=1"} }},
		{"conflicting options: hostname and the network mode", func(c *container.Config, h *container.HostConfig) {
			c.Hostname, h.NetworkMode = "h", "container:x"
		}},
		{"Interval in Healthcheck cannot be less than 1ms", func(c *container.Config, _ *container.HostConfig) {
			c.Healthcheck = &container.HealthConfig{Interval: 1}
		}},
		{"--storage-opt is supported only for overlay over xfs with 'pquota' mount option: not served by holdfast", func(_ *container.Config, h *container.HostConfig) {
			h.StorageOpt = map[string]string{"size": "20M"}
		}},
		{"unknown option dm.basesize", func(_ *container.Config, h *container.HostConfig) {
			h.StorageOpt = map[string]string{"size": "20M", "dm.basesize": "1"}
		}},
		{"invalid --storage-opt size: invalid size: 'much'", func(_ *container.Config, h *container.HostConfig) {
			h.StorageOpt = map[string]string{"size": "much"}
		}},
		{`could not select device driver "" with capabilities: []`, func(_ *container.Config, h *container.HostConfig) {
			h.DeviceRequests = []container.DeviceRequest{{}}
		}},
		{"Range of blkio weight is from 10 to 1000", func(_ *container.Config, h *container.HostConfig) { h.BlkioWeight = 9 }},
		{"unknown or invalid runtime name: kata", func(_ *container.Config, h *container.HostConfig) { h.Runtime = "kata" }},
		{"logger: no log driver named 'gelf' is registered", func(_ *container.Config, h *container.HostConfig) { h.LogConfig.Type = "gelf" }},
		{"Invalid value: 101, valid memory swappiness range is 0-100", func(_ *container.Config, h *container.HostConfig) { h.MemorySwappiness = int64p(101) }},
		{"Requested CPUs are not available - requested 9, available: 0-3", func(_ *container.Config, h *container.HostConfig) { h.CpusetCpus = "9" }},
		{"invalid ulimit type: fish", func(_ *container.Config, h *container.HostConfig) {
			h.Ulimits = []*container.Ulimit{{Name: "fish"}}
		}},
		{"No such image: nope", func(c *container.Config, _ *container.HostConfig) { c.Image = "nope" }},
	} {
		world(t, func(m *machine, d *daemon) {
			cfg, host := &container.Config{Image: "busybox"}, &container.HostConfig{}
			c.edit(cfg, host)
			_, err := d.Create(d.t.Context(), CreateOptions{Config: cfg, HostConfig: host})
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if len(m.records)+len(m.layers)+len(m.vols) != 0 {
				t.Errorf("%s: something was left behind", c.want)
			}
		})
	}
}

func TestMountsOfAContainer(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("first", func(c *container.Config, h *container.HostConfig) {
			h.Binds = []string{"/host:/b:ro,z", "named:/n"}
			c.Volumes = map[string]struct{}{"/n": {}, "/anon": {}}
		})
		d.create("second", func(c *container.Config, h *container.HostConfig) { h.VolumesFrom = []string{"first:ro"} })
		for name, wantRW := range map[string]string{"first": "/anon true /b false /n true", "second": "/anon false /b false /n false"} {
			i, err := d.Inspect(d.t.Context(), name, false)
			d.must(err)
			var got []string
			for _, p := range i.Mounts {
				got = append(got, fmt.Sprint(p.Destination, " ", p.RW))
			}
			if s := strings.Join(got, " "); s != wantRW {
				t.Errorf("%s: %s, want %s", name, s, wantRW)
			}
		}
		d.must(d.Remove(d.t.Context(), "first", RemoveOptions{Volumes: true}))
		if len(m.vols) != 2 {
			t.Errorf("volumes %v: the second container still uses them", m.vols)
		}
		d.must(d.Remove(d.t.Context(), "second", RemoveOptions{Volumes: true}))
		if len(m.vols) != 1 || m.vols["named"] == nil {
			t.Errorf("volumes %v, want the named one", m.vols)
		}
	})
}

func TestHealthVerdicts(t *testing.T) {
	began := time.Unix(1000, 0)
	cfg := &container.HealthConfig{Retries: 2, StartPeriod: 10 * time.Second}
	h := &container.Health{Status: container.Starting}
	step := func(after time.Duration, code int) {
		h = nextHealth(h, cfg, began, &container.HealthcheckResult{Start: began.Add(after), ExitCode: code})
	}
	expect := func(what string, s container.HealthStatus, streak int) {
		t.Helper()
		if h.Status != s || h.FailingStreak != streak {
			t.Errorf("%s: %s with streak %d, want %s with %d", what, h.Status, h.FailingStreak, s, streak)
		}
	}
	step(time.Second, 1)
	expect("failure while starting", container.Starting, 0)
	step(11*time.Second, 1)
	expect("first that counts", container.Starting, 1)
	step(12*time.Second, 1)
	expect("second", container.Unhealthy, 2)
	step(13*time.Second, 0)
	expect("success", container.Healthy, 0)
	for i := range 10 {
		step(time.Duration(20+i)*time.Second, 0)
	}
	if len(h.Log) != maxHealthLog {
		t.Errorf("%d results are kept", len(h.Log))
	}
}

func TestListFilters(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("alpha", func(c *container.Config, _ *container.HostConfig) { c.Labels = map[string]string{"k": "v"} })
		time.Sleep(time.Second)
		d.create("beta", func(c *container.Config, h *container.HostConfig) { c.Image = "db"; h.Binds = []string{"vol:/vol"} })
		time.Sleep(time.Second)
		id := d.create("gamma", nil)
		d.must(d.Start(d.t.Context(), "beta"))
		d.must(d.Start(d.t.Context(), "gamma"))
		m.exit(id, 4)
		time.Sleep(time.Second)
		for _, c := range []struct {
			o    ListOptions
			want string
		}{
			{ListOptions{}, "beta"},
			{ListOptions{All: true}, "gamma beta alpha"},
			{ListOptions{Limit: 2}, "gamma beta"},
			{ListOptions{Filters: map[string][]string{"status": {"exited", "created"}}}, "gamma alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"name": {"^/al"}}}, "alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"id": {id[:8]}}}, "gamma"},
			{ListOptions{All: true, Filters: map[string][]string{"label": {"k=v"}}}, "alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"label": {"k=w"}}}, ""},
			{ListOptions{All: true, Filters: map[string][]string{"exited": {"4"}}}, "gamma"},
			{ListOptions{All: true, Filters: map[string][]string{"ancestor": {"db"}}}, "beta"},
			{ListOptions{All: true, Filters: map[string][]string{"volume": {"vol"}}}, "beta"},
			{ListOptions{All: true, Filters: map[string][]string{"network": {"bridge"}}}, "gamma beta alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"expose": {"5400-5500/tcp"}}}, "beta"},
			{ListOptions{All: true, Filters: map[string][]string{"before": {"beta"}}}, "alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"since": {"beta"}}}, "gamma"},
			{ListOptions{All: true, Filters: map[string][]string{"health": {"none"}}}, "gamma beta alpha"},
			{ListOptions{All: true, Filters: map[string][]string{"is-task": {"true"}}}, ""},
		} {
			list, err := d.List(d.t.Context(), c.o)
			d.must(err)
			var got []string
			for _, s := range list {
				got = append(got, strings.TrimPrefix(s.Names[0], "/"))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%v: %q, want %q", c.o, s, c.want)
			}
		}
		for _, f := range []map[string][]string{{"odd": {"x"}}, {"status": {"x"}}, {"exited": {"x"}}, {"health": {"x"}}, {"is-task": {"x"}}} {
			if _, err := d.List(d.t.Context(), ListOptions{Filters: f}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: %v", f, err)
			}
		}
	})
}

func TestPrune(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("old", nil)
		d.create("kept", func(c *container.Config, _ *container.HostConfig) { c.Labels = map[string]string{"keep": "1"} })
		d.create("runs", nil)
		d.must(d.Start(d.t.Context(), "runs"))
		rep, err := d.Prune(d.t.Context(), map[string][]string{"label!": {"keep"}})
		d.must(err)
		if len(rep.ContainersDeleted) != 1 || rep.SpaceReclaimed != 10 || d.Exists("old") || !d.Exists("kept") {
			t.Errorf("%+v", rep)
		}
	})
}

func TestUpdate(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("uu", func(_ *container.Config, h *container.HostConfig) { h.Memory = 64 << 20 })
		u := container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}
		u.CPUShares = 512
		_, err := d.Update(d.t.Context(), "uu", u)
		d.must(err)
		i, err := d.Inspect(d.t.Context(), "uu", false)
		d.must(err)
		if i.HostConfig.CPUShares != 512 || i.HostConfig.RestartPolicy.Name != "always" || i.HostConfig.Memory != 64<<20 {
			t.Errorf("%+v", i.HostConfig)
		}
		u = container.UpdateConfig{}
		u.Memory = 1 << 30
		if _, err := d.Update(d.t.Context(), "uu", u); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Memory limit should be smaller than already set memoryswap limit") {
			t.Errorf("memory over swap: %v", err)
		}
	})
}

// Nobody may take a container that the policy starts again for one at rest.
func TestStartByPolicyIsShownAsRestarting(t *testing.T) {
	r := Record{Phase: Starting, RestartCount: 1, FinishedAt: time.Unix(1, 0), ExitCode: 3}
	if got := r.state(); got != container.StateRestarting || !r.shown().running() {
		t.Errorf("shown as %s, running %v", got, r.shown().running())
	}
	if got := status(&r, time.Unix(3, 0)); got != "Restarting (3) 2 seconds ago" {
		t.Errorf("status %q", got)
	}
	r.RestartCount = 0
	if got := r.state(); got != container.StateExited || r.shown().running() {
		t.Errorf("started by hand: shown as %s", got)
	}
}
