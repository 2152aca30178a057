package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// plan is `holdfast … prune --dry-run --json`.
func plan(t *testing.T, d *testkit.Daemon, args ...string) (r api.PruneReport) {
	t.Helper()
	decode(t, []byte(d.Holdfast(append(args, "--dry-run", "--json")...)), &r)
	return r
}

// named are the names of what a plan removes.
func named(r api.PruneReport) string {
	var out []string
	for _, i := range r.Items {
		name := i.Name
		if i.Kind == api.PruneCache || strings.HasPrefix(name, "sha256:") {
			name = "…"
		}
		out = append(out, i.Kind+" "+name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func names(d *testkit.Daemon) string {
	return strings.Join([]string{
		d.Docker("ps", "-a", "--format", "{{.Names}}"), d.Docker("images", "--format", "{{.Repository}}"),
		d.Docker("volume", "ls", "-q"), d.Docker("network", "ls", "--format", "{{.Name}}"),
	}, "\n")
}

func TestPruneShowsItsPlan(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no plans")
	d := own(t, testkit.Options{RootExt4: 256})
	d.Image("busybox")
	big := testkit.Layer{"big": {Body: noise(8 << 20)}}.Tar()
	d.Load(testkit.ImageSpec{Ref: "base:1", Layers: [][]byte{testkit.BusyboxLayer(t), big}})
	d.Load(testkit.ImageSpec{Ref: "app:1", Layers: [][]byte{testkit.BusyboxLayer(t), big, testkit.Layer{"app": {Body: noise(1 << 20)}}.Tar()}})
	d.Docker("network", "create", "idle")
	d.Docker("network", "create", "busy")
	up(d, "--name", "runs", "--network", "busy", "-v", "kept:/k", "busybox", "sleep", "600")
	d.Docker("run", "--name", "ended", "-v", "named:/n", "-v", "/anon", "app:1", "sh", "-c", "head -c 3000000 /dev/urandom > /f; head -c 2000000 /dev/urandom > /anon/f")
	d.Docker("run", "--name", "labelled", "--label", "keep=yes", "busybox", "true")
	before := names(d)

	equal(t, "plan", named(plan(t, d, "system", "prune")), "container ended, container labelled, network idle")
	equal(t, "plan with a filter", named(plan(t, d, "system", "prune", "--filter", "label!=keep")), "container ended, network idle")
	equal(t, "of images", named(plan(t, d, "image", "prune", "-a")), "image base:1")
	r := plan(t, d, "system", "prune", "-a", "--volumes")
	// The anonymous volume and the image of the ended container go with it.
	if got := named(r); !strings.HasPrefix(got, "container ended, container labelled, image app:1, image base:1, network idle, volume ") || len(r.Items) != 6 {
		t.Errorf("all: %s", got)
	}
	text := d.Holdfast("system", "prune", "-a", "--volumes", "--dry-run")
	for _, want := range []string{"KIND", "ended", "does not run: Exited (0)", "no container uses it", "made without a name", "6 to remove, which frees "} {
		contains(t, "dry run", text, want)
	}
	contains(t, "asks", d.Run("n\n", "holdfast", "system", "prune").Out, "ended")
	for _, args := range [][]string{
		{"container", "prune", "-f", "--filter", "label=nobody"},
		{"image", "prune", "-f", "-a", "--filter", "label=nobody"},
		{"volume", "prune", "-f", "--filter", "label=nobody"},
		{"network", "prune", "-f", "--filter", "label=nobody"},
		{"system", "prune", "-f", "--filter", "label=nobody"},
	} {
		contains(t, args[0], d.Holdfast(args...), "nothing unused matches the filter label=nobody")
	}
	contains(t, "json", d.Run("", "holdfast", "system", "prune", "--json").Err, "wants --force")
	equal(t, "nothing went", names(d), before)

	// What it says it frees is what the disk has more afterwards.
	free := func() int64 {
		d.Exec("sync")
		var st unix.Statfs_t
		if err := unix.Statfs(d.Path(d.Root()), &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bfree) * st.Bsize
	}
	had := free()
	var done api.PruneReport
	decode(t, []byte(d.Holdfast("system", "prune", "-a", "--volumes", "-f", "--json")), &done)
	for _, i := range done.Items {
		if !i.Removed {
			t.Errorf("stayed: %+v", i)
		}
	}
	if done.Frees != r.Frees {
		t.Errorf("planned %d, done %d", r.Frees, done.Frees)
	}
	var got int64
	d.Eventually(settle, "the space is free", func() (bool, string) {
		got = free() - had
		return got > done.Frees-512<<10 && got < done.Frees+512<<10, fmt.Sprintf("free: %d more, told %d", got, done.Frees)
	})
	equal(t, "what stays", named(plan(t, d, "system", "prune", "-a", "--volumes")), "")
	contains(t, "says so", d.Holdfast("system", "prune", "-f", "--dry-run"), "Nothing to prune.")
	contains(t, "named volume", d.Docker("volume", "ls", "-q"), "named")
	equal(t, "the volume", named(plan(t, d, "volume", "prune", "-a")), "volume named")
}

// Layers that two images share are free only when both go.
func TestPlansCountSharedLayersOnce(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no plans")
	d := own(t, testkit.Options{})
	layer := func(n int) []byte {
		return testkit.Layer{"f": {Body: strings.Repeat(strconv.Itoa(n), 1<<20)}}.Tar()
	}
	d.Load(testkit.ImageSpec{Ref: "one:1", Layers: [][]byte{layer(1), layer(2)}})
	d.Load(testkit.ImageSpec{Ref: "two:1", Layers: [][]byte{layer(1), layer(3)}})
	d.Docker("create", "--name", "user", "two:1", "x")
	mib := func(n int64) string { return strconv.FormatInt((n+1<<19)>>20, 10) } // content and layer
	equal(t, "one alone", mib(sizeOfUnused(t, d, "one:1")), "2")
	d.Docker("rm", "user")
	equal(t, "both", mib(plan(t, d, "image", "prune", "-a").Frees-sizeOfUnused(t, d, "busybox:latest")), "6")
	d.Docker("tag", "one:1", "again:1")
	r := plan(t, d, "image", "prune", "-a")
	var names, frees int
	for _, i := range r.Items {
		if strings.HasPrefix(i.Name, "one") || strings.HasPrefix(i.Name, "again") {
			names++
			if i.Frees > 0 {
				frees++
			}
		}
	}
	if names != 2 || frees != 1 {
		t.Errorf("two names: %+v", r.Items)
	}
}

// sizeOfUnused is what a plan has for an image that the kit put there.
func sizeOfUnused(t *testing.T, d *testkit.Daemon, name string) int64 {
	t.Helper()
	for _, i := range plan(t, d, "image", "prune", "-a").Items {
		if i.Name == name {
			return i.Frees
		}
	}
	return 0
}

// Whatever is pruned meanwhile, a container that is being started starts, with
// its image, volume and network.
func TestPruneRacesStarts(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{})
	for i := range 5 {
		d.Load(testkit.ImageSpec{Ref: fmt.Sprintf("img%d:1", i), Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"n": {Body: strconv.Itoa(i)}}.Tar()}})
	}
	stop := make(chan struct{})
	var pruning, starts sync.WaitGroup
	for _, args := range [][]string{{"container", "prune", "-f"}, {"image", "prune", "-f"}, {"volume", "prune", "-f"}} {
		pruning.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r := d.DockerResult(args...); r.Code != 0 && !strings.Contains(r.Err, "already running") {
					t.Errorf("%s", r)
				}
			}
		})
	}
	turns := make(chan struct{}, 6) // at a time
	for i := range 50 {
		starts.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			name := "s" + strconv.Itoa(i)
			r := d.DockerResult("run", "-d", "--name", name, "-v", "/anon", fmt.Sprintf("img%d:1", i%5), "sh", "-c", "echo mine > /anon/f; exec sleep 600")
			if r.Code != 0 {
				t.Errorf("%s", r)
			}
		})
	}
	starts.Wait()
	close(stop)
	pruning.Wait()
	equal(t, "running", strconv.Itoa(len(strings.Fields(d.Docker("ps", "-q")))), "50")
	for i := range 50 {
		d.Eventually(settle, "its volume is there", func() (bool, string) {
			r := d.DockerResult("exec", "s"+strconv.Itoa(i), "cat", "/anon/f")
			return strings.TrimSpace(r.Out) == "mine", r.String()
		})
	}
}

// An image is not pruned while a container is being made of it.
func TestPruneOfImagesRacesCreates(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it removes the image")
	d := own(t, testkit.Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond): // at any moment of the other's work
			}
			if code, out := d.API("POST", `/images/prune?filters={"dangling":["false"]}`, nil); code != 200 {
				t.Errorf("%d %s", code, out)
			}
		}
	})
	spec := testkit.ImageSpec{Ref: "busy:1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"n": {Body: "n"}}.Tar()}}
	made := 0
	for end := time.Now().Add(time.Minute); made < 25 && time.Now().Before(end); {
		d.Load(spec)
		code, out := d.API("POST", "/containers/create?name=racer", map[string]any{"Image": "busy:1", "Cmd": []string{"true"}})
		switch code {
		case 404: // the prune was first
			contains(t, "refusal", string(out), "No such image: busy:1")
		case 201:
			made++
			var in struct{ Image string }
			d.GetJSON("/containers/racer/json", &in)
			if code, out := d.API("GET", "/images/"+in.Image+"/json", nil); code != 200 {
				t.Errorf("the image of a container went: %d %s", code, out)
			}
			d.Docker("start", "-a", "racer")
			d.Docker("rm", "racer")
		default:
			t.Errorf("%d %s", code, out)
		}
	}
	close(stop)
	wg.Wait()
	if made == 0 {
		t.Error("no container was ever made")
	}
}

func TestPruneOnAFullDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its files are elsewhere")
	d := own(t, testkit.Options{RootExt4: 96})
	d.Image("busybox")
	k := disk{t, d}
	d.Load(testkit.ImageSpec{Ref: "big:1", Layers: [][]byte{testkit.Layer{"f": {Body: noise(4 << 20)}}.Tar()}})
	d.Docker("run", "--name", "ended", "-v", "/anon", "-v", "named:/n", "busybox", "sh", "-c", "head -c 2000000 /dev/urandom | tee /f /n/f > /anon/f")
	up(d, "--name", "runs", "busybox", "sleep", "600")
	k.fill()
	r := plan(t, d, "system", "prune", "-a", "--volumes")
	if len(r.Items) != 3 {
		t.Errorf("plan: %s", named(r))
	}
	out := d.Docker("system", "prune", "-a", "-f", "--volumes")
	contains(t, "prune", out, "Total reclaimed space: ")
	equal(t, "containers", d.Docker("ps", "-a", "--format", "{{.Names}}"), "runs")
	equal(t, "images", d.Docker("images", "--format", "{{.Repository}}"), "busybox")
	d.Eventually(settle, "there is room again", func() (bool, string) {
		avail := strings.TrimSpace(d.Exec("sh", "-c", "df --output=avail -k "+d.Root()+" | tail -1"))
		n, err := strconv.Atoi(avail)
		return err == nil && n > 8000, avail
	})
	k.free()
	// And the same after a crash in the midst of it.
	if err := os.WriteFile(d.Dir()+"/note", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		d.Docker("run", "--name", "e"+strconv.Itoa(i), "-v", "/anon", "busybox", "sh", "-c", "head -c 1000000 /dev/urandom > /f")
	}
	k.fill()
	cmd := d.Command(t.Context(), "docker", "system", "prune", "-f", "--volumes")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.Eventually(settle, "the prune began", func() (bool, string) {
		left := d.DockerResult("ps", "-aq", "--filter", "status=exited").Out
		return len(strings.Fields(left)) < 4, left
	})
	d.Kill()
	_ = cmd.Wait() // the daemon died under it
	d.Start()
	d.Docker("system", "prune", "-f", "--volumes")
	k.free()
	equal(t, "containers", d.Docker("ps", "-a", "--format", "{{.Names}}"), "runs")
	w := truth{t, d}
	w.settled()
	w.holds("after a prune that died")
}

func TestPruneRequestsAreChecked(t *testing.T) {
	notOnTwin(t, "not its API")
	d := daemon(t)
	for body, want := range map[string]string{
		`{}`:                          "nothing to prune is named",
		`{"steps":[{"kind":"dust"}]}`: `unknown kind to prune: \"dust\"`,
		`{"steps":[{"kind":"trash","filters":{"until":["1h"]}}]}`:            "takes no filters",
		`{"steps":[{"kind":"image","all":true}]}`:                            "for the build cache",
		`{"steps":[{"kind":"image"},{"kind":"image"}]}`:                      "given twice",
		`{"steps":[{"kind":"image","filters":{"colour":["red"]}}]}`:          "invalid filter 'colour'",
		`{"steps":[{"kind":"container","filters":{"until":["yesterday"]}}]}`: "invalid value for",
		`{"steps":[{"kind":"build cache","filters":{"x":["y"]}}]}`:           "invalid filter 'x'",
	} {
		code, out := d.API("POST", api.PathPrune, json.RawMessage(body))
		if code != 400 || !strings.Contains(string(out), want) {
			t.Errorf("%s: %d %s", body, code, out)
		}
	}
}

func TestStoragePolicy(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no policies")
	d := own(t, testkit.Options{Config: map[string]any{"storage-policy": map[string]any{
		"every": "1m", "containers": map[string]any{"keep-last": 1, "keep-if-label": []string{"keep"}}, "images": map[string]any{"keep-last": 1},
	}}})
	for i := range 3 {
		d.Load(testkit.ImageSpec{Ref: fmt.Sprintf("app:%d", i), Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"n": {Body: strconv.Itoa(i)}}.Tar()}})
	}
	d.Docker("run", "--name", "old", "busybox", "true")
	d.Docker("run", "--name", "labelled", "--label", "keep", "busybox", "true")
	d.Docker("run", "--name", "uses", "app:0", "true")
	d.Docker("volume", "create", "named")
	up(d, "--name", "runs", "busybox", "sleep", "600")
	contains(t, "nothing yet", d.Holdfast("storage", "log"), "removed nothing yet")
	text := d.Holdfast("storage", "policy")
	for _, want := range []string{"Of kind container it keeps the newest 1, what has the label keep", "kept: it has the label keep", "unused, and ", "kept: it is among the newest 1", "app:2"} {
		contains(t, "policy", text, want)
	}
	if strings.Contains(text, "runs") || strings.Contains(text, "app:0") || strings.Contains(text, "named") {
		t.Errorf("it judges what is in use:\n%s", text)
	}
	var run api.StorageRun
	decode(t, []byte(d.Holdfast("storage", "policy", "run", "--json")), &run)
	equal(t, "containers", strings.Join(strings.Fields(d.Docker("ps", "-a", "--format", "{{.Names}}")), " "), "runs uses labelled")
	equal(t, "images", strings.Join(strings.Fields(d.Docker("images", "app", "--format", "{{.Tag}}")), " "), "2 0")
	contains(t, "volume", d.Docker("volume", "ls", "-q"), "named")
	log := d.Holdfast("storage", "log")
	for _, want := range []string{"asked for, disk ", "removed 2, freed", "removed   container", "app:1"} {
		contains(t, "log", log, want)
	}
	d.Eventually(settle, "the event is told", func() (bool, string) { // until is in whole seconds
		out := d.Docker("events", "--since", "5m", "--until", "0s", "--filter", "event=storage-policy")
		return strings.Contains(out, "removed=2"), out
	})
	d.KillAndStart()
	contains(t, "log of an earlier daemon", d.Holdfast("storage", "log"), "app:1")
}

// Rules for what only Holdfast keeps: snapshots, the trash, old logs.
func TestStoragePolicyOfWhatIsKept(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no policies")
	d := own(t, testkit.Options{Config: map[string]any{"storage-policy": map[string]any{
		"snapshots": map[string]any{"keep-last": 1, "keep-if-label": []string{"keep"}},
		"trash":     map[string]any{"keep-if-label": []string{"keep"}},
		"logs":      map[string]any{"keep-last": 1},
	}}})
	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "head -c 200000 /dev/urandom > /d/f")
	for _, args := range [][]string{{"data@one"}, {"--label", "keep", "data@labelled"}, {"data@safe"}, {"data@used"}, {"data@two"}, {"data@last"}} {
		d.Holdfast(append([]string{"volume", "snapshot", "create"}, args...)...)
	}
	d.Holdfast("volume", "protect", "data@safe")
	d.Docker("create", "--name", "reader", "-v", "data@used:/d:ro", "busybox")
	for _, args := range [][]string{{"gone"}, {"--label", "keep", "stays"}} {
		d.Docker(append([]string{"volume", "create"}, args...)...)
		name := args[len(args)-1]
		d.Docker("run", "--rm", "-v", name+":/d", "busybox", "sh", "-c", "head -c 300000 /dev/urandom > /d/f")
		d.Docker("volume", "rm", name)
	}
	up(d, "--name", "talks", "--log-opt", "max-size=4k", "--log-opt", "max-file=4", "busybox", "sh", "-c", "seq 1 3000; echo done; exec sleep 600")
	waitLog(d, "talks", "done")
	d.Docker("run", "--name", "talked", "busybox", "echo", "last words")
	d.Eventually(settle, "all is measured", func() (bool, string) {
		out := d.Holdfast("system", "df")
		return !strings.Contains(out, "not known yet"), out
	})
	df := d.Holdfast("system", "df")
	contains(t, "df", df, "6 snapshots of volumes take 1.2")
	contains(t, "df", df, "2 removed volumes in the trash take 6")
	if strings.Contains(d.Docker("system", "df"), "trash") {
		t.Error("Docker's own reply has another shape")
	}
	text := d.Holdfast("storage", "policy")
	for _, want := range []string{"Of kind log it keeps the newest 1", "Of kind snapshot it keeps the newest 1, what has the label keep", "Of kind trash it keeps what has the label keep", "talks json.log.3", "data@one", "gone"} {
		contains(t, "policy", text, want)
	}
	if strings.Contains(text, "data@safe") || strings.Contains(text, "data@used") {
		t.Errorf("it judges what is protected or used:\n%s", text)
	}
	var run api.StorageRun
	decode(t, []byte(d.Holdfast("storage", "policy", "run", "--json")), &run)
	var went []string
	for _, i := range run.Items {
		if !i.Removed || i.Frees <= 0 {
			t.Errorf("%+v", i)
		}
		went = append(went, i.Kind+" "+i.Name)
	}
	slices.Sort(went)
	equal(t, "went", strings.Join(went, ", "), "log talks json.log.2, log talks json.log.3, snapshot data@one, snapshot data@two, trash gone")
	equal(t, "snapshots left", d.Holdfast("volume", "snapshot", "ls", "--format", "{{.Name}}", "data"), "data@labelled\ndata@safe\ndata@used\ndata@last")
	contains(t, "trash left", d.Holdfast("volume", "trash", "ls"), "stays")
	equal(t, "what was undeleted", d.Holdfast("volume", "undelete", "stays"), "stays")
	equal(t, "the newest log is kept", d.Docker("logs", "talked"), "last words")
	contains(t, "what is written is, too", d.Docker("logs", "talks"), "done")
	log := d.Holdfast("storage", "log")
	for _, want := range []string{"removed   log", "removed   snapshot", "data@one", "removed   trash", "unused, and "} {
		contains(t, "log", log, want)
	}
	d.Eventually(settle, "the event is told", func() (bool, string) {
		out := d.Docker("events", "--since", "5m", "--until", "0s", "--filter", "event=storage-policy")
		return strings.Contains(out, "removed=5"), out
	})
}

// The trash gives way above the high-water mark, if the policy has a rule for it;
// without one it stays for its time.
func TestTrashAtTheHighWaterMark(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no trash")
	for _, c := range []struct {
		name, want string
		rules      map[string]any
	}{
		{"allowed", "", map[string]any{"high-water": "1%", "trash": map[string]any{}}},
		{"not allowed", "kept", map[string]any{"high-water": "1%", "containers": map[string]any{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := own(t, testkit.Options{Config: map[string]any{"storage-policy": c.rules}})
			d.Docker("run", "--rm", "-v", "kept:/d", "busybox", "sh", "-c", "head -c 100000 /dev/urandom > /d/f")
			d.Docker("volume", "rm", "kept")
			d.Docker("run", "--name", "old", "busybox", "true")
			d.Eventually(time.Minute, "the policy ran by itself", func() (bool, string) {
				log := d.Holdfast("storage", "log")
				return strings.Contains(log, "above the high-water mark of 1%"), log
			})
			left := d.Holdfast("volume", "trash", "ls")
			if strings.Contains(left, "kept") != (c.want == "kept") {
				t.Errorf("the trash:\n%s", left)
			}
		})
	}
}

// Above the high-water mark the policy runs by itself.
func TestStoragePolicyWatchesTheDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no policies")
	d := own(t, testkit.Options{Config: map[string]any{"storage-policy": map[string]any{
		"high-water": "1%", "containers": map[string]any{},
	}}})
	d.Docker("run", "--name", "old", "busybox", "true")
	up(d, "--name", "runs", "busybox", "sleep", "600")
	d.Eventually(time.Minute, "the policy ran by itself", func() (bool, string) {
		log := d.Holdfast("storage", "log")
		return strings.Contains(log, "above the high-water mark of 1%") && strings.Contains(log, "old"), log
	})
	equal(t, "containers", d.Docker("ps", "-a", "--format", "{{.Names}}"), "runs")
}

func TestInfoTellsOfTheDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its words differ")
	d := own(t, testkit.Options{RootExt4: 64, Config: map[string]any{"storage-policy": map[string]any{"high-water": "95%"}}})
	d.Image("busybox")
	var info struct {
		Driver, DockerRootDir string
		DriverStatus          [][2]string
		Warnings              []string
	}
	d.GetJSON("/info", &info)
	status := fmt.Sprint(info.DriverStatus)
	for _, want := range []string{"Backing Filesystem extfs", "Supports d_type true", "Quota none", " free of ", "Inodes "} {
		contains(t, "driver status", status, want)
	}
	equal(t, "root", info.DockerRootDir, d.Root())
	if s := strings.Join(info.Warnings, "\n"); strings.Contains(s, "high-water") {
		t.Errorf("warned of a disk that is not full: %s", s)
	}
	k := disk{t, d}
	k.fill()
	d.GetJSON("/info", &info)
	contains(t, "warnings", strings.Join(info.Warnings, "\n"), "above the high-water mark of 95%")
	contains(t, "client", d.DockerResult("info").Err, "above the high-water mark")
	k.free()
}

func TestStorageTopAndExplain(t *testing.T) {
	notOnTwin(t, "it does not explain")
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "one:1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"n": {Body: noise(500_000)}}.Tar()}})
	up(d, "--name", "writer", "-v", "data:/data", "one:1", "sh", "-c", "head -c 3000000 /dev/urandom > /data/f; head -c 1000000 /dev/urandom > /f; echo done; exec sleep 600")
	waitLog(d, "writer", "done")
	d.Holdfast("system", "df", "--fresh")
	top := strings.Join(strings.Fields(d.Holdfast("storage", "top")), " ") // columns are as wide as what is in them
	for _, want := range []string{"KIND", "container writer", "volume data", "image one"} {
		contains(t, "top", top, want)
	}
	contains(t, "spans", d.Run("", "holdfast", "storage", "top", "--by", "year").Err, `"year" is not hour, day or week`)
	for what, want := range map[string]string{
		"writer": "It is: what container writer wrote beside its volumes, over the layers of its image one:1",
		"data":   "It is: the data of volume data, which these containers refer to: writer",
		"one:1":  "1 containers have it: after they are removed",
		format(d, "writer", "{{.GraphDriver.Data.UpperDir}}") + "/f":   "container writer: 1",
		d.Docker("volume", "inspect", "-f", "{{.Mountpoint}}", "data"): "volume data: 3",
		format(d, "writer", "{{.LogPath}}"):                            "the log and other files",
		format(d, "one:1", "{{.GraphDriver.Data.UpperDir}}") + "/n":    "It is: a read-only layer of one:1",
		d.Root() + "/holdfast.db":                                      "files of the daemon itself",
		"/etc/passwd":                                                  "nothing of Holdfast's",
		d.Root() + "/containerd/content/blobs/sha256/" + strings.TrimPrefix(format(d, "one:1", "{{.Id}}"), "sha256:"): "It is: content (a compressed layer, manifest or config) of one:1",
	} {
		contains(t, what, d.Holdfast("storage", "explain", what), want)
	}
	contains(t, "unknown", d.Run("", "holdfast", "storage", "explain", "nobody").Err, "no container, volume, image, snapshot, removed volume, record of the build cache, pool or blob nobody")
	// What only Holdfast keeps, and what is below images and builds.
	d.Holdfast("volume", "snapshot", "create", "--live", "data@one")
	d.Holdfast("volume", "snapshot", "create", "--live", "data@safe")
	d.Holdfast("volume", "protect", "data@safe")
	d.Docker("run", "--rm", "-v", "thrown:/d", "busybox", "sh", "-c", "head -c 700000 /dev/urandom > /d/f")
	d.Docker("volume", "rm", "thrown")
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo built > /built\n"})
	d.Docker("build", "-q", "-t", "built:1", dir)
	d.Holdfast("system", "df", "--fresh")
	var cached string
	for line := range strings.SplitSeq(d.Docker("system", "df", "-v", "--format", `{{range .BuildCache}}{{.ID}} {{.CacheType}},{{end}}`), ",") {
		if id, kind, _ := strings.Cut(strings.TrimSpace(line), " "); kind == "regular" {
			cached = id
		}
	}
	blob := "sha256:" + filepath.Base(strings.TrimSpace(d.Exec("sh", "-c", "ls -S "+d.Root()+"/containerd/content/blobs/sha256/* | head -1")))
	inTrash := strings.Fields(d.Holdfast("volume", "trash", "ls", "-q"))[0] // other tests may have left some
	var snapshots []api.Snapshot
	decode(t, []byte(d.Holdfast("volume", "snapshot", "inspect", "data@one")), &snapshots)
	for what, want := range map[string]string{
		"data@one":               "To free it: holdfast volume snapshot rm data@one",
		"data@safe":              "nothing as it is: it is protected",
		"thrown":                 "it can be had back by holdfast volume undelete",
		inTrash:                  " with its snapshots, removed ",
		cached:                   "a record of the build cache of type regular",
		blob:                     "content (a compressed layer, manifest or config) of ",
		snapshots[0].Path + "/f": "a snapshot of volume data, made ",
	} {
		contains(t, what, d.Holdfast("storage", "explain", what), want)
	}
}

// A request may be about some items of a plan; all else stays.
func TestPruneOnlyWhatIsChosen(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no plans")
	d := own(t, testkit.Options{})
	layer := testkit.Layer{"f": {Body: noise(1 << 20)}}.Tar()
	d.Load(testkit.ImageSpec{Ref: "app:1", Layers: [][]byte{layer}})
	d.Docker("tag", "app:1", "app:2")
	for _, name := range []string{"one", "two"} {
		d.Docker("create", "--name", name, "busybox", "true")
		d.Docker("volume", "create", name)
	}
	prune := func(dry bool, only ...string) (r api.PruneReport) {
		t.Helper()
		code, body := d.API("POST", api.PathPrune, api.PruneRequest{
			Steps:  []api.PruneStep{{Kind: api.PruneContainers}, {Kind: api.PruneImages, Filters: map[string][]string{"dangling": {"false"}}}, {Kind: api.PruneVolumes, Filters: map[string][]string{"all": {"true"}}}},
			DryRun: dry, Only: only,
		})
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		decode(t, body, &r)
		return r
	}
	refs := map[string]string{}
	for _, i := range prune(true).Items {
		refs[i.Kind+" "+i.Name] = i.Ref()
	}
	r := prune(false, refs["container one"], refs["volume two"], refs["image app:1"])
	equal(t, "removed", named(r), "container one, image app:1, volume two")
	for _, i := range r.Items {
		if !i.Removed {
			t.Errorf("%s %s stays", i.Kind, i.Name)
		}
		if i.Kind == api.PruneImages && i.Frees != 0 {
			t.Errorf("a name of an image that keeps another frees %d bytes", i.Frees)
		}
	}
	equal(t, "containers left", d.Docker("ps", "-a", "--format", "{{.Names}}"), "two")
	equal(t, "volumes left", d.Docker("volume", "ls", "-q"), "one")
	equal(t, "names left", d.Docker("images", "--format", "{{.Tag}}", "app"), "2")
	// The last name takes the image along.
	if r := prune(false, refs["image app:2"]); len(r.Items) != 1 || !r.Items[0].Removed || r.Items[0].Frees < 1<<20 {
		t.Errorf("%+v", r)
	}
	if r := prune(false, "container/none/such"); len(r.Items) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestHostTruth(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it does not look")
	d := own(t, testkit.Options{RootExt4: 512})
	d.Image("busybox")
	pool := canMakePools()
	if pool {
		d.Holdfast("pool", "create", "--size", "256m", "--sparse", "default")
	}
	up(d, "--name", "holds", "-v", "data:/data", "busybox", "sh", "-c",
		"head -c 2000000 /dev/urandom > /data/gone; exec 3< /data/gone; rm /data/gone; head -c 3000000 /dev/urandom > /data/kept; head -c 1000000 /dev/urandom > /layer; exec 4< /layer; rm /layer; echo done; exec sleep 600")
	waitLog(d, "holds", "done")
	d.Holdfast("volume", "snapshot", "create", "--live", "data@one")
	d.Docker("run", "--rm", "-v", "thrown:/d", "busybox", "sh", "-c", "head -c 700000 /dev/urandom > /d/f")
	d.Docker("volume", "rm", "thrown")
	d.Holdfast("storage", "repair") // so that no collection is on its way, which would take what follows
	hex := strings.Repeat("ab", 32)
	in := func(path string) string { return d.Path(d.Root() + "/" + path) }
	orphan, mine := in("containers/"+hex), in("volumes/nobodys/_data")
	blob, layer := in("containerd/content/blobs/sha256/"+hex), in("containerd/snapshots/snapshots/987654")
	for _, f := range []string{orphan + "/f", mine + "/f", blob, layer + "/fs/f"} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(noise(100_000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Exec("sync")
	d.Holdfast("system", "df", "--fresh")
	var r api.HostReport
	decode(t, []byte(d.Holdfast("system", "df", "--host", "--format", "json")), &r)
	var sum, orphans int64
	told := map[string]api.HostPart{}
	for _, p := range r.Parts {
		sum += p.Walked
		told[p.Name] = p
	}
	for _, o := range r.Orphans {
		orphans += o.Bytes
	}
	open := int64(0)
	for _, f := range r.DeletedOpen {
		open += f.Bytes
	}
	// Every byte is somewhere: the parts are the walk, and the walk and what no walk
	// finds are what the file system says is used, but for the file system's own.
	if rest := r.Disk.Used - r.Walked - open; sum != r.Walked || rest < 0 || rest > 1<<20 {
		t.Errorf("parts %d, walked %d, deleted %d, used %d\n%+v", sum, r.Walked, open, r.Disk.Used, r.Parts)
	}
	if n := told["orphans"].Walked + told["not referenced"].Walked; n != orphans || n < 400_000 {
		t.Errorf("orphans: %d in parts, %d by name", n, orphans)
	}
	for name, slack := range map[string]int64{
		"data of volumes": 0, "snapshots of volumes": 0, "trash": 0, "writable layers": 64 << 10, "layers of images": 64 << 10, "content of images": 64 << 10,
	} {
		if p := told[name]; p.Told <= 0 || p.Walked < p.Told || p.Walked > p.Told+slack {
			t.Errorf("%s: walked %d, told %d", name, p.Walked, p.Told)
		}
	}
	text := d.Holdfast("system", "df", "--host")
	for _, want := range []string{
		"IN THE LEDGER", "containerd", "volumes", hex, "of a container that is no more", "nobodys", "belongs to no volume", "DELETED, BUT OPEN", "/data/gone", "/layer", "holds",
		"sha256/" + hex, "content that no image", "snapshots/987654", "a layer that no image",
	} {
		contains(t, "host", text, want)
	}
	if pool {
		if len(r.Pools) != 1 || r.Pools[0].Bytes != 256<<20 || r.Pools[0].Used <= 0 || r.Pools[0].OnDisk != told["files of pools"].Walked || r.Pools[0].OnDisk >= r.Pools[0].Bytes/2 {
			t.Errorf("pools: %+v of %+v", r.Pools, told["files of pools"])
		}
		contains(t, "pools", text, "ALLOCATED")
		contains(t, "explain", d.Holdfast("storage", "explain", "default"), "the file system of pool default, of ")
		contains(t, "explain", d.Holdfast("storage", "explain", r.Pools[0].Path), "it is in a file; the size is what that takes of the disk")
	}
	contains(t, "explain", d.Holdfast("storage", "explain", d.Root()+"/containerd/content/blobs/sha256/"+hex), "that nothing refers to")
	contains(t, "dry run", d.Holdfast("storage", "repair", "--dry-run"), "removes it")
	for _, path := range []string{orphan, blob, layer} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	contains(t, "repair", d.Holdfast("storage", "repair"), "removed")
	for _, path := range []string{orphan, blob, layer} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: still there: %v", path, err)
		}
	}
	if _, err := os.Stat(mine + "/f"); err != nil {
		t.Errorf("data of nobody's went: %v", err)
	}
	contains(t, "the container", d.Docker("exec", "holds", "echo", "fine"), "fine")
	equal(t, "its image", d.Docker("run", "--rm", "busybox", "echo", "fine"), "fine")
	if err := os.RemoveAll(in("volumes/nobodys")); err != nil {
		t.Fatal(err)
	}
	d.Eventually(settle, "nothing is left", func() (bool, string) { // the container's layer is collected soon
		out := d.Holdfast("storage", "repair")
		return strings.Contains(out, "belongs to something"), out
	})
	if pool {
		d.Holdfast("pool", "rm", "default")
	}
}
