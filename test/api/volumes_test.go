package api

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestVolumeLifecycle(t *testing.T) {
	d := daemon(t)
	equal(t, "create", d.Docker("volume", "create", "--label", "a=b", "vol1"), "vol1")
	equal(t, "create again is the same", d.Docker("volume", "create", "vol1"), "vol1")
	equal(t, "inspect", format(d, "vol1", `{{.Name}} {{.Driver}} {{.Scope}} {{index .Labels "a"}}`), "vol1 local local b")
	anon := d.Docker("volume", "create")
	if len(anon) != 64 {
		t.Errorf("anonymous name %q", anon)
	}
	mp := format(d, "vol1", "{{.Mountpoint}}")
	if fi, err := os.Stat(d.Path(mp)); err != nil || !fi.IsDir() {
		t.Errorf("mount point: %v", err)
	}
	for _, tc := range [][2]string{{"name=vol", "vol1"}, {"label=a", "vol1"}, {"label=a=b", "vol1"}, {"driver=local", ""}, {"dangling=true", ""}} {
		contains(t, tc[0], d.Docker("volume", "ls", "-q", "--filter", tc[0]), tc[1])
	}
	d.Docker("volume", "rm", anon)
	d.DockerFails("get "+anon+": no such volume", "volume", "inspect", anon)
	d.DockerFails("no such volume", "volume", "rm", "nosuch")
	d.Docker("volume", "rm", "-f", "nosuch")
	d.DockerFails("error looking up volume plugin nosuchdriver", "volume", "create", "-d", "nosuchdriver", "x1")
	d.DockerFails("invalid", "volume", "create", "bad/name")
}

func TestVolumeInUseIsNotRemoved(t *testing.T) {
	d := daemon(t)
	id := d.Docker("create", "--name", "user", "-v", "used:/u", "busybox")
	code, body := d.API(http.MethodDelete, "/volumes/used", nil)
	if code != http.StatusConflict {
		t.Errorf("%d %s", code, body)
	}
	contains(t, "message", string(body), "remove used: volume is in use - ["+id+"]")
	equal(t, "filter", d.Docker("volume", "ls", "-q", "--filter", "dangling=false"), "used")
	d.Docker("rm", "user")
	d.Docker("volume", "rm", "used")
}

func TestVolumeDataOutlivesContainersAndIsShared(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "data:/a", "busybox", "sh", "-c", "echo kept > /a/f")
	equal(t, "second container", d.Docker("run", "--rm", "-v", "data:/b", "busybox", "cat", "/b/f"), "kept")
	up(d, "--name", "waiter", "-v", "data:/x", "busybox", "sh", "-c", "while [ ! -e /x/answer ]; do sleep 0.05; done; cat /x/answer")
	d.Docker("run", "--rm", "-v", "data:/y", "busybox", "sh", "-c", "echo shared > /y/tmp; mv /y/tmp /y/answer")
	equal(t, "both see it", d.Docker("wait", "waiter"), "0")
	equal(t, "content", d.Docker("logs", "waiter"), "shared")
	d.Docker("run", "--name", "from", "-v", "data:/z", "busybox", "true")
	equal(t, "--volumes-from", d.Docker("run", "--rm", "--volumes-from", "from:ro", "busybox", "sh", "-c", "cat /z/f; touch /z/no 2>/dev/null || echo ro"), "kept\nro")
}

func TestNewVolumeGetsTheImagesContent(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "content:v1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{
		"srv":           {Dir: true, Mode: 0o750, UID: 33},
		"srv/page":      {Body: "from the image", Mode: 0o640, UID: 33},
		"srv/deep":      {Dir: true},
		"srv/deep/link": {Link: "../page"},
	}.Tar()}, Config: map[string]any{"Cmd": []string{"sh", "-c", "stat -c '%a %u' /srv /srv/page; cat /srv/deep/link"}, "Volumes": map[string]any{"/srv": map[string]any{}}}})
	want := "750 33\n640 33\nfrom the image"
	equal(t, "named", d.Docker("run", "--rm", "-v", "fresh:/srv", "content:v1"), want)
	equal(t, "declared by the image", d.Docker("run", "--rm", "content:v1"), want)
	equal(t, "--mount", d.Docker("run", "--rm", "--mount", "type=volume,source=fresh2,target=/srv", "content:v1"), want)
	d.Docker("run", "--rm", "-v", "fresh:/srv", "content:v1", "sh", "-c", "echo mine > /srv/page; rm /srv/deep/link")
	equal(t, "copied only once", d.Docker("run", "--rm", "-v", "fresh:/srv", "content:v1", "sh", "-c", "cat /srv/page; ls /srv/deep"), "mine")
	equal(t, "volume-nocopy", d.Docker("run", "--rm", "--mount", "type=volume,source=empty,target=/srv,volume-nocopy", "content:v1", "ls", "/srv"), "")
	equal(t, ":nocopy", d.Docker("run", "--rm", "-v", "empty2:/srv:nocopy", "content:v1", "ls", "/srv"), "")
	equal(t, "a bind hides it", d.Docker("run", "--rm", "-v", t.TempDir()+":/srv", "content:v1", "ls", "/srv"), "")
}

func TestVolumeSubpath(t *testing.T) {
	notOnTwin(t, "newer than 20.10")
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "tree:/t", "busybox", "sh", "-c", "mkdir -p /t/a/b; echo deep > /t/a/b/f; ln -s /etc /t/escape")
	equal(t, "subpath", d.Docker("run", "--rm", "--mount", "type=volume,source=tree,target=/s,volume-subpath=a/b", "busybox", "cat", "/s/f"), "deep")
	d.Docker("run", "--rm", "-v", "tree:/t", "busybox", "ln", "-s", "../a", "/t/a/self")
	for bad, why := range map[string]string{
		"nosuch": "cannot access path",
		"../..":  "subpath must be a relative path within the volume",
		"/abs":   "subpath must be a relative path within the volume",
		"escape": "path concatenation escapes the base directory",
	} {
		d.DockerFails(why, "run", "--rm", "--mount", "type=volume,source=tree,target=/s,volume-subpath="+bad, "busybox", "ls", "/s")
	}
	equal(t, "a link that stays inside", d.Docker("run", "--rm", "--mount", "type=volume,source=tree,target=/s,volume-subpath=a/self/b", "busybox", "cat", "/s/f"), "deep")

	// The image's content goes into the part of the volume that is mounted there.
	d.Docker("run", "--rm", "-v", "tree:/t", "busybox", "mkdir", "/t/etc")
	equal(t, "copied into an empty part", d.Docker("run", "--rm", "--mount", "type=volume,source=tree,target=/etc,volume-subpath=etc", "busybox", "ls", "/etc/passwd"), "/etc/passwd")
	equal(t, "and only there", d.Docker("run", "--rm", "-v", "tree:/t", "busybox", "ls", "/t"), "a\nescape\netc")
}

func TestVolumeDriverOptions(t *testing.T) {
	d := daemon(t)
	d.Docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=3m,uid=33", "inmem")
	equal(t, "tmpfs", d.Docker("run", "--rm", "-v", "inmem:/m", "busybox", "sh", "-c", "df -k /m | tail -1 | awk '{print $2}'; stat -c %u /m"), "3072\n33")
	dir := filepath.Join(d.Dir(), "bound")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.Docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+dir, "bound")
	d.Docker("run", "--rm", "-v", "bound:/m", "busybox", "sh", "-c", "echo x > /m/f")
	if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "x\n" {
		t.Errorf("%q, %v", b, err)
	}
	equal(t, "in --mount", d.Docker("run", "--rm", "--mount", `type=volume,source=inline,target=/m,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=2m"`, "busybox", "sh", "-c", "df -k /m | tail -1 | awk '{print $2}'"), "2048")
	d.DockerFails("invalid option", "volume", "create", "-o", "nonsense=1", "bad1")
	d.DockerFails("missing required option", "volume", "create", "-o", "type=tmpfs", "bad2")
	d.Docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such/dir", "bad3")
	d.DockerFails("no such file or directory", "run", "--rm", "-v", "bad3:/m", "busybox", "true")
	equal(t, "nothing half made", d.Docker("ps", "-aq", "--filter", "status=running"), "")
}

func TestVolumePrune(t *testing.T) {
	d := daemon(t)
	d.Docker("create", "--name", "keeper", "-v", "used:/u", "-v", "/anonused", "busybox")
	d.Docker("volume", "create", "named")
	anon := d.Docker("volume", "create")
	all := d.Docker("volume", "ls", "-q")
	contains(t, "before", all, anon)
	out := d.Docker("volume", "prune", "-f")
	contains(t, "anonymous ones only", out, anon)
	if engine != testkit.Dockerd {
		contains(t, "the named one stays", d.Docker("volume", "ls", "-q"), "named")
		contains(t, "-a", d.Docker("volume", "prune", "-af"), "named")
	}
	equal(t, "in use stay", fmt.Sprint(len(strings.Fields(d.Docker("volume", "ls", "-q")))), "2")
}

func TestVolumeReadOnlyAndNested(t *testing.T) {
	d := daemon(t)
	equal(t, "nested", d.Docker("run", "--rm", "-v", "outer:/o", "-v", "inner:/o/i", "busybox", "sh", "-c", "echo 1 > /o/f; echo 2 > /o/i/f; cat /o/f /o/i/f"), "1\n2")
	equal(t, "outer ro, inner rw", d.Docker("run", "--rm", "-v", "outer:/o:ro", "-v", "inner:/o/i", "busybox", "sh", "-c", "touch /o/x 2>/dev/null || echo ro; touch /o/i/x && echo rw"), "ro\nrw")
	d.DockerFails("Duplicate mount point: /same", "create", "-v", "a1:/same", "-v", "b1:/same", "busybox")
	d.DockerFails("bind source path does not exist: /no/such/path", "create", "--mount", "type=bind,source=/no/such/path,target=/x", "busybox")
	d.DockerFails("invalid mode", "create", "-v", "a1:/x:nonsense", "busybox")
}

func TestVolumeCheck(t *testing.T) {
	notOnTwin(t, "Docker has no such command")
	d := daemon(t)
	d.Docker("volume", "create", "good")
	out := d.Holdfast("volume", "check", "--for", "postgres,generic", "good")
	contains(t, "verdict", out, "FOR")
	for _, db := range []string{"postgres", "generic"} {
		contains(t, "verdict", out, db)
	}
	if strings.Contains(out, "unsafe") {
		t.Errorf("a plain folder is fine: %s", out)
	}
	d.Docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "mem")
	r := d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), "volume", "check", "--for", "postgres", "mem")
	if r.Code != 1 || !strings.Contains(r.Out, "gone with the next reboot") {
		t.Errorf("memory: %s", r)
	}
	// The volume was mounted for the check only.
	d.Docker("volume", "rm", "mem")
	equal(t, "nothing is left", d.Docker("run", "--rm", "-v", "good:/d", "busybox", "ls", "-A", "/d"), "")
	contains(t, "a path", d.Holdfast("volume", "check", "-v", t.TempDir()), "rename-over-open-file")
	for text, args := range map[string][]string{
		"no such volume":            {"nosuch"},
		"no such directory":         {"/no/such/dir"},
		"unknown database \"nodb\"": {"--for", "nodb", "good"},
		"not a directory":           {"/etc/passwd"},
	} {
		r := d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), append([]string{"volume", "check"}, args...)...)
		if r.Code == 0 || !strings.Contains(r.Err, text) {
			t.Errorf("%v: want %q, got %s", args, text, r)
		}
	}
}
