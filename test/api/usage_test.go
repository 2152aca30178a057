package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// truth is what a walk of the daemon's own files finds.
type truth struct {
	t *testing.T
	d *testkit.Daemon
}

// blocks is what directories take on the disk.
func (w truth) blocks(dirs ...string) (total int64) {
	w.t.Helper()
	for _, dir := range dirs {
		n, err := strconv.ParseInt(strings.Fields(w.d.Exec("du", "-sx", "-B1", dir))[0], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		total += n
	}
	return total
}

// lengths is the size of a volume's files as Docker tells it.
func (w truth) lengths(dir string) (total int64) {
	w.t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(w.d.Exec("find", dir, "-xdev", "!", "-type", "d", "-printf", "%i %s\n")) {
		ino, size, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		if !seen[ino] {
			total += n
		}
		seen[ino] = true
	}
	return total
}

// image is what the image is made of: bytes by directory or blob.
func (w truth) image(id string) map[string]int64 {
	w.t.Helper()
	parts := map[string]int64{}
	var in struct {
		GraphDriver struct {
			Data struct{ LowerDir, UpperDir string }
		}
	}
	w.d.GetJSON("/images/"+id+"/json", &in)
	for _, dir := range strings.Split(in.GraphDriver.Data.UpperDir+":"+in.GraphDriver.Data.LowerDir, ":") {
		if dir != "" {
			parts[dir] = w.blocks(dir)
		}
	}
	blob := func(digest string) []byte {
		p := w.d.Path(filepath.Join(w.d.Root(), "containerd/content/blobs/sha256", strings.TrimPrefix(digest, "sha256:")))
		b, err := os.ReadFile(p)
		if err != nil {
			w.t.Fatal(err)
		}
		parts[digest] = int64(len(b))
		return b
	}
	var walk func(digest string)
	walk = func(digest string) {
		var m struct {
			Config    struct{ Digest string }
			Layers    []struct{ Digest string }
			Manifests []struct{ Digest string }
		}
		if err := json.Unmarshal(blob(digest), &m); err != nil {
			w.t.Fatal(err)
		}
		for _, c := range m.Manifests {
			walk(c.Digest)
		}
		if m.Config.Digest != "" {
			blob(m.Config.Digest)
		}
		for _, l := range m.Layers {
			blob(l.Digest)
		}
	}
	walk(id)
	return parts
}

// diskUsage is the reply of /system/df, old and new form.
type diskUsage struct {
	LayersSize int64
	Images     []imageSize
	Containers []containerSize
	Volumes    []volumeSize
	ImageUsage struct {
		TotalSize, Reclaimable int64
		TotalCount             int
		Items                  []imageSize
	}
	ContainerUsage struct{ TotalSize, Reclaimable int64 }
	VolumeUsage    struct{ TotalSize, Reclaimable int64 }
}

type imageSize struct {
	ID               string `json:"Id"`
	Size, SharedSize int64
	Containers       int
}

type containerSize struct {
	ID         string `json:"Id"`
	SizeRw     int64
	SizeRootFs int64
	State      string
}

type volumeSize struct {
	Name, Mountpoint string
	UsageData        struct{ Size, RefCount int64 }
}

// holds compares all that the daemon tells about sizes with a walk. Things that
// are in use are compared when what was written to them is older than their age.
func (w truth) holds(when string) {
	t, d := w.t, w.d
	t.Helper()
	var du diskUsage
	d.GetJSON("/system/df", &du)
	all, used := map[string]int64{}, map[string]bool{}
	owners := map[string]int{}
	made := map[string]map[string]int64{}
	for _, i := range du.Images {
		made[i.ID] = w.image(i.ID)
		for p, n := range made[i.ID] {
			all[p] = n
			owners[p]++
			used[p] = used[p] || i.Containers > 0
		}
	}
	for _, i := range du.Images {
		var size, shared int64
		for p, n := range made[i.ID] {
			size += n
			if owners[p] > 1 {
				shared += n
			}
		}
		if i.Size != size || i.SharedSize != shared {
			t.Errorf("%s: image %s: size %d, shared %d; the walk says %d, %d", when, i.ID, i.Size, i.SharedSize, size, shared)
		}
	}
	var total, reclaimable int64
	for p, n := range all {
		total += n
		if !used[p] {
			reclaimable += n
		}
	}
	if du.LayersSize != total || du.ImageUsage.TotalSize != total || du.ImageUsage.Reclaimable != reclaimable {
		t.Errorf("%s: images: %d/%d, reclaimable %d; the walk says %d, %d", when, du.LayersSize, du.ImageUsage.TotalSize, du.ImageUsage.Reclaimable, total, reclaimable)
	}
	for _, c := range du.Containers {
		var in struct {
			GraphDriver struct {
				Data struct{ LowerDir, UpperDir string }
			}
		}
		d.GetJSON("/containers/"+c.ID+"/json", &in)
		rw := w.blocks(in.GraphDriver.Data.UpperDir)
		all := rw + w.blocks(strings.Split(in.GraphDriver.Data.LowerDir, ":")...)
		if c.SizeRw != rw || c.SizeRootFs != all {
			t.Errorf("%s: container %s (%s): %d of %d; the walk says %d of %d", when, c.ID[:12], c.State, c.SizeRw, c.SizeRootFs, rw, all)
		}
	}
	for _, v := range du.Volumes {
		if size := w.lengths(v.Mountpoint); v.UsageData.Size != size {
			t.Errorf("%s: volume %s: %d; the walk says %d", when, v.Name, v.UsageData.Size, size)
		}
	}
	w.kept(when)
	for what, n := range map[string]int64{
		"images": du.ImageUsage.Reclaimable, "containers": du.ContainerUsage.Reclaimable, "volumes": du.VolumeUsage.Reclaimable,
	} {
		if n < 0 {
			t.Errorf("%s: reclaimable of %s is %d", when, what, n)
		}
	}
}

// kept compares what is told of snapshots and of the trash with what the driver's
// folders have, which are all on the disk and no others.
func (w truth) kept(when string) {
	t, d := w.t, w.d
	t.Helper()
	var told api.UsageReport
	d.GetJSON(api.PathUsage, &told)
	sizes := map[string]int64{}
	for _, i := range told.Items {
		if i.Kind == api.UsageSnapshot || i.Kind == api.UsageTrash {
			sizes[i.Kind+" "+i.ID] = i.Disk
		}
	}
	root, walked := d.Root()+"/volumes/", map[string]int64{}
	for dir := range strings.FieldsSeq(d.Exec("sh", "-c", "ls -d "+root+"*/_snapshots/* "+root+".trash-*/_data "+root+".trash-*/_snapshots/* 2>/dev/null || true")) {
		volume, rest, _ := strings.Cut(strings.TrimPrefix(dir, root), "/")
		if id, ok := strings.CutPrefix(volume, ".trash-"); ok {
			walked[api.UsageTrash+" "+id] += w.blocks(dir)
		} else {
			walked[api.UsageSnapshot+" "+volume+"@"+filepath.Base(rest)] = w.blocks(dir)
		}
	}
	if !maps.Equal(sizes, walked) {
		t.Errorf("%s: snapshots and trash: %v; the walk says %v", when, sizes, walked)
	}
}

// nothingLost says that all on the disk belongs to something, once what an earlier
// daemon had no time for was collected.
func (w truth) nothingLost(when string) {
	w.t.Helper()
	w.d.Eventually(settle, when+": nothing is lost", func() (bool, string) {
		var r api.HostReport
		w.d.GetJSON(api.PathStorageHost, &r)
		return len(r.Orphans) == 0, fmt.Sprintf("%+v", r.Orphans)
	})
}

// The ledger says what a walk says, whatever was done and wherever the daemon
// was killed. HF_CHAOS_SEED repeats a run.
func TestLedgerIsTrue(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it has no ledger")
	d := own(t, testkit.Options{})
	w := truth{t, d}
	rng := rand.New(rand.NewPCG(chaosSeed(t), 7))
	steps := 60
	if v := os.Getenv("HF_CHAOS_STEPS"); v != "" {
		var err error
		if steps, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	name := func(kind string, n int) string { return kind + strconv.Itoa(rng.IntN(n)) }
	try := func(args ...string) { d.DockerResult(args...) } // many are refused, for want of what they name
	script := func() string {
		return fmt.Sprintf("dd if=/dev/urandom of=%s/f%d bs=1k count=%d 2>/dev/null; rm -f %s/f%d",
			[]string{"/tmp", "/data", "/root"}[rng.IntN(3)], rng.IntN(5), rng.IntN(200), []string{"/tmp", "/data"}[rng.IntN(2)], rng.IntN(5))
	}
	source := t.TempDir()
	for i := range steps {
		switch rng.IntN(15) {
		case 0, 1:
			try("run", "--name", name("c", 8), "-v", name("v", 4)+":/data", name2(rng), "sh", "-c", "mkdir -p /tmp /root; "+script())
		case 2:
			try("run", "-d", "--name", name("c", 8), "-v", name("v", 4)+":/data", name2(rng), "sh", "-c", "mkdir -p /tmp /root; exec sleep 600")
		case 3, 4:
			try("exec", name("c", 8), "sh", "-c", script())
		case 5:
			try("stop", "-t", "0", name("c", 8))
		case 6:
			try("start", name("c", 8))
		case 7:
			try("commit", name("c", 8), "made"+strconv.Itoa(rng.IntN(3)))
		case 8:
			if err := os.WriteFile(source+"/copied", []byte(noise(rng.IntN(100_000))), 0o600); err != nil {
				t.Fatal(err)
			}
			try("cp", source+"/copied", name("c", 8)+":"+[]string{"/copied", "/data/copied", "/tmp/copied"}[rng.IntN(3)])
		case 9:
			try("rm", "-f", "-v", name("c", 8))
		case 10:
			try("rmi", "made"+strconv.Itoa(rng.IntN(3)))
			try("volume", "rm", name("v", 4))
			if rng.IntN(2) == 0 {
				d.Load(testkit.ImageSpec{Ref: "made" + strconv.Itoa(rng.IntN(3)) + ":latest", Layers: [][]byte{
					testkit.BusyboxLayer(t), testkit.Layer{"etc/x": {Body: noise(rng.IntN(50_000))}}.Tar(),
				}})
			}
		case 12:
			if err := os.WriteFile(source+"/Dockerfile", []byte("FROM busybox\nRUN mkdir -p /tmp /data /root; "+script()+"\nRUN echo "+strconv.Itoa(i)+" > /etc/step\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			try("build", "-q", "-t", "made"+strconv.Itoa(rng.IntN(3)), source)
		case 13:
			snapshot := name("v", 4) + "@" + name("s", 2)
			d.Run("", "holdfast", [][]string{
				{"volume", "snapshot", "create", "--live", snapshot},
				{"volume", "snapshot", "create", "--live", snapshot},
				{"volume", "snapshot", "rm", snapshot},
				{"volume", "snapshot", "rollback", snapshot},
			}[rng.IntN(4)]...)
		case 14:
			volume := name("v", 4)
			if rng.IntN(3) > 0 {
				try("volume", "rm", volume)
			} else {
				d.Run("", "holdfast", "volume", "undelete", volume)
			}
			if rng.IntN(4) == 0 {
				d.Run("", "holdfast", "volume", "trash", "rm", name("v", 4))
			}
		case 11:
			switch rng.IntN(3) {
			case 0:
				d.Restart()
			case 1:
				d.KillAndStart()
			default: // in the midst of something
				done := make(chan struct{})
				cmd := d.Command(t.Context(), "docker", "run", "--name", name("c", 8), "-v", name("v", 4)+":/data", "-w", "/made/by/start", "busybox", "sh", "-c", script())
				go func() {
					defer close(done)
					_ = cmd.Run() // the daemon dies under it
				}()
				d.Eventually(settle, "the run went some way", func() (bool, string) {
					return rng.IntN(40) == 0, ""
				})
				d.KillAndStart()
				<-done
			}
		}
		if i%15 == 14 {
			w.settled()
			w.holds("step " + strconv.Itoa(i))
		}
	}
	w.settled()
	w.holds("at the end")
	w.nothingLost("at the end")
	d.Kill()
	d.Start()
	w.settled()
	w.holds("after a crash")
	d.Restart()
	w.holds("after a restart") // nobody measures first: it was written down
}

func name2(rng *rand.Rand) string {
	return []string{"busybox", "busybox", "made0", "made1"}[rng.IntN(4)]
}

// settled waits until everything was measured since this call.
func (w truth) settled() {
	w.t.Helper()
	now := time.Now()
	w.d.Eventually(2*time.Minute, "all is measured", func() (bool, string) {
		var du diskUsage
		w.d.GetJSON("/system/df", &du) // measures what is cheap
		var told api.UsageReport
		w.d.GetJSON(api.PathUsage, &told)
		for _, i := range told.Items {
			if !i.Exact && !i.MeasuredAt.After(now) {
				return false, fmt.Sprintf("%+v", i)
			}
		}
		return true, ""
	})
}

// What the ledger tells of things in use is the truth of the time it tells.
func TestSizesCarryTheirAge(t *testing.T) {
	notOnTwin(t, "it has no ledger")
	d := daemon(t)
	// So many files that nobody waits for a walk of them.
	up(d, "--name", "large", "-v", "large:/data", "busybox", "sh", "-c",
		"cd /data; i=0; while [ $i -lt 20 ]; do mkdir $i; (cd $i; touch $(seq 1 500)); i=$((i+1)); done; echo ready; exec sleep 600")
	waitLog(d, "large", "ready")
	find := func(fresh string) (found api.UsageItem) {
		t.Helper()
		var told api.UsageReport
		d.GetJSON(api.PathUsage+fresh, &told)
		for _, i := range told.Items {
			if i.Kind == api.UsageVolume && i.Name == "large" {
				return i
			}
		}
		t.Fatalf("no volume among %+v", told)
		return found
	}
	before := find("?fresh=true")
	if before.Files != 10000 || before.Bytes != 0 || !before.InUse || before.Exact {
		t.Fatalf("fresh: %+v", before)
	}
	d.Docker("exec", "large", "sh", "-c", "head -c 5000 /dev/zero > /data/more")
	after := time.Now()
	if i := find(""); i.MeasuredAt.Before(after) && i.Bytes != 0 || i.MeasuredAt.After(after) && i.Bytes != 5000 {
		t.Errorf("told %+v, written before %s", i, after)
	}
	contains(t, "df", d.Holdfast("system", "df", "--fresh", "-v"), "5kB")
	if i := find(""); i.Bytes != 5000 || i.Files != 10001 {
		t.Errorf("after --fresh: %+v", i)
	}
	contains(t, "volume ls", d.Holdfast("volume", "ls", "--size"), "10001")
	d.Docker("rm", "-f", "large")
	d.Eventually(settle, "a volume at rest is known", func() (bool, string) {
		i := find("")
		return i.Exact && i.Bytes == 5000, fmt.Sprintf("%+v", i)
	})
	contains(t, "volume ls", d.Holdfast("volume", "ls", "--size"), "at rest")
}

func TestSizesInLists(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--name", "wrote", "busybox", "sh", "-c", "head -c 200000 /dev/urandom > /f")
	up(d, "--name", "writes", "busybox", "sh", "-c", "head -c 300000 /dev/urandom > /f; echo done; exec sleep 600")
	waitLog(d, "writes", "done")
	var list []containerSize
	d.GetJSON("/containers/json?all=1&size=1", &list)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	for _, c := range list {
		want := int64(200_000)
		if c.State == "running" {
			want = 300_000
		}
		if c.SizeRw < want || c.SizeRw > want+50_000 || c.SizeRootFs <= c.SizeRw {
			t.Errorf("%+v", c)
		}
	}
	d.Docker("cp", "/etc/passwd", "wrote:/passwd")
	d.Docker("rm", "-f", "writes")
	var du diskUsage
	d.GetJSON("/v1.41/system/df", &du)
	if len(du.Containers) != 1 || du.Containers[0].SizeRw < 200_500 {
		t.Errorf("after cp: %+v", du.Containers)
	}
	contains(t, "ps -s", d.Docker("ps", "-a", "-s", "--format", "{{.Size}}"), "kB (virtual ")
}
