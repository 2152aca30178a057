package api

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// host is a create request with this host configuration.
func host(h map[string]any) map[string]any {
	return map[string]any{"Image": "busybox", "Cmd": []string{"true"}, "HostConfig": h}
}

func mounts(m ...map[string]any) map[string]any { return host(map[string]any{"Mounts": m}) }

// TestBadInput: Docker's status and message form, whatever is sent, and nothing
// made of it.
func TestBadInput(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "runs", "busybox", "sleep", "600")
	d.Docker("create", "--name", "made", "busybox", "true")
	long := strings.Repeat("n", 4096)
	const create = "/containers/create"
	for _, tc := range []struct {
		method, path string
		body         any
		code         int
		text         string
	}{
		// Unknown names.
		{"GET", "/containers/nosuch/json", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/start", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/stop", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/kill", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/pause", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/wait", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/resize?h=1&w=1", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/rename?name=other", nil, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/update", map[string]any{}, 404, "No such container: nosuch"},
		{"POST", "/containers/nosuch/exec", map[string]any{"Cmd": []string{"true"}}, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/logs?stdout=1", nil, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/stats?stream=0", nil, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/top", nil, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/changes", nil, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/export", nil, 404, "No such container: nosuch"},
		{"GET", "/containers/nosuch/archive?path=/", nil, 404, "No such container: nosuch"},
		{"DELETE", "/containers/nosuch", nil, 404, "No such container: nosuch"},
		{"POST", "/commit?container=nosuch", nil, 404, "No such container: nosuch"},
		{"GET", "/exec/nosuch/json", nil, 404, "No such exec instance: nosuch"},
		{"POST", "/exec/nosuch/start", map[string]any{}, 404, "No such exec instance: nosuch"},
		{"GET", "/images/nosuch/json", nil, 404, "No such image: nosuch"},
		{"GET", "/images/nosuch/history", nil, 404, "No such image: nosuch"},
		{"POST", "/images/nosuch/tag?repo=x&tag=y", nil, 404, "No such image: nosuch"},
		{"DELETE", "/images/nosuch", nil, 404, "No such image: nosuch"},
		{"GET", "/volumes/nosuch", nil, 404, "get nosuch: no such volume"},
		{"DELETE", "/volumes/nosuch", nil, 404, "get nosuch: no such volume"},
		{"GET", "/networks/nosuch", nil, 404, "network nosuch not found"},
		{"DELETE", "/networks/nosuch", nil, 404, "network nosuch not found"},
		{"POST", "/networks/nosuch/connect", map[string]any{"Container": "runs"}, 404, "network nosuch not found"},
		{"POST", "/networks/bridge/connect", map[string]any{"Container": "nosuch"}, 404, "No such container: nosuch"},
		{"POST", create, map[string]any{"Image": "nosuch"}, 404, "No such image: nosuch"},
		{"GET", "/nosuch", nil, 404, "page not found"},
		// Malformed.
		{"POST", create, `{"Image":`, 400, ""},
		{"POST", create, `["Image"]`, 400, ""},
		{"POST", create, `{"Image":5}`, 400, ""},
		{"POST", create, ``, 400, ""},
		{"POST", create, `null`, 400, ""},
		{"POST", create, "{\"Image\":\"\xff\xfe\"}", 400, ""},
		{"POST", "/volumes/create", `{"Name":[1]}`, 400, ""},
		{"POST", "/networks/create", `{"Name":`, 400, ""},
		{"POST", "/containers/runs/exec", `{"Cmd":"x"}x`, 400, ""},
		{"POST", "/containers/runs/exec", map[string]any{}, 400, "No exec command specified"},
		{"GET", "/containers/json?filters=nonsense", nil, 400, ""},
		{"GET", "/containers/json?limit=x", nil, 400, ""},
		{"GET", "/containers/json?filters=" + url.QueryEscape(`{"status":["nonsense"]}`), nil, 400, "nonsense"},
		{"GET", "/images/json?filters=" + url.QueryEscape(`{"dangling":["perhaps"]}`), nil, 400, "perhaps"},
		{"GET", "/volumes?filters=" + url.QueryEscape(`{"nonsense":["x"]}`), nil, 400, "nonsense"},
		{"GET", "/networks?filters=" + url.QueryEscape(`{"type":["nonsense"]}`), nil, 400, "nonsense"},
		{"GET", "/events?since=yesterday", nil, 400, ""},
		{"POST", "/containers/runs/kill?signal=NONSENSE", nil, 400, "NONSENSE"},
		{"POST", "/containers/runs/stop?t=soon", nil, 400, ""},
		{"POST", "/containers/runs/resize?h=x&w=1", nil, 400, ""},
		{"GET", "/containers/runs/logs", nil, 400, "at least one"},
		{"GET", "/containers/runs/archive", nil, 400, ""},
		{"PUT", "/containers/runs/archive", nil, 400, ""},
		{"PUT", "/containers/runs/archive?path=/nosuch/folder", testkit.Layer{"f": {}}.Tar(), 404, "Could not find the file /nosuch/folder in container runs"},
		{"PUT", "/containers/runs/archive?path=/etc/passwd", testkit.Layer{"f": {}}.Tar(), 400, "extraction point is not a directory"},
		{"GET", "/containers/runs/archive?path=/nosuch", nil, 404, "Could not find the file /nosuch in container runs"},
		// Names.
		{"POST", create + "?name=made", host(nil), 409, "is already in use by container"},
		{"POST", create + "?name=" + url.QueryEscape("a b"), host(nil), 400, "Invalid container name (a b)"},
		{"POST", create + "?name=" + url.QueryEscape("../../etc"), host(nil), 400, "Invalid container name"},
		{"POST", create + "?name=" + url.QueryEscape("\xff\xfe"), host(nil), 400, "Invalid container name"},
		{"POST", "/containers/made/rename?name=runs", nil, 409, "is already in use by container"},
		{"POST", "/containers/made/rename?name=", nil, 400, "Neither old nor new names may be empty"},
		{"POST", "/volumes/create", map[string]any{"Name": "../escape"}, 400, "includes invalid characters for a local volume name"},
		{"POST", "/volumes/create", map[string]any{"Name": "a/b"}, 400, "includes invalid characters for a local volume name"},
		{"POST", "/volumes/create", map[string]any{"Name": "x"}, 400, "volume name is too short"},
		{"POST", "/volumes/create", map[string]any{"Name": "nodriver", "Driver": "nosuch"}, 404, "nosuch"},
		{"POST", "/volumes/create", map[string]any{"Name": "badopt", "DriverOpts": map[string]string{"nonsense": "1"}}, 400, "nonsense"},
		{"POST", "/networks/create", map[string]any{"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"},
		{"POST", "/networks/create", map[string]any{"Name": ""}, 400, ""},
		{"POST", "/networks/create", map[string]any{"Name": "nodriver", "Driver": "nosuch"}, 404, "nosuch"},
		{"POST", "/networks/create", map[string]any{"Name": "badnet", "IPAM": map[string]any{"Config": []any{map[string]any{"Subnet": "10.1.2.3/99"}}}}, 400, ""},
		{"POST", "/images/busybox/tag?repo=UPPER&tag=x", nil, 400, "invalid reference format"},
		{"POST", "/images/busybox/tag?repo=ok&tag=" + strings.Repeat("t", 200), nil, 400, "invalid"},
		// Limits.
		{"POST", create, host(map[string]any{"Memory": 1024}), 400, "Minimum memory limit allowed is 6MB"},
		{"POST", create, host(map[string]any{"Memory": 64 << 20, "MemorySwap": 32 << 20}), 400, "Minimum memoryswap limit should be larger than memory limit"},
		{"POST", create, host(map[string]any{"MemorySwap": 64 << 20}), 400, "You should always set the Memory limit when using Memoryswap limit"},
		{"POST", create, host(map[string]any{"Memory": 64 << 20, "MemoryReservation": 65 << 20}), 400, "Minimum memory limit can not be less than memory reservation limit"},
		{"POST", create, host(map[string]any{"NanoCpus": int64(100000) * 1e9}), 400, "ange of CPUs is from 0.01 to"},
		{"POST", create, host(map[string]any{"NanoCpus": -1}), 400, "ange of CPUs"},
		{"POST", create, host(map[string]any{"CpusetCpus": "0-9999"}), 400, "Invalid value 0-9999 for cpuset cpus"},
		{"POST", create, host(map[string]any{"CpusetCpus": "4000"}), 400, "Requested CPUs are not available"},
		{"POST", create, host(map[string]any{"CpusetCpus": "x"}), 400, "nvalid"},
		{"POST", create, host(map[string]any{"CpuPeriod": 10}), 400, "CPU cfs period"},
		{"POST", create, host(map[string]any{"CpuQuota": 10}), 400, "CPU cfs quota"},
		{"POST", create, host(map[string]any{"ShmSize": -5}), 400, "SHM size can not be less than 0"},
		{"POST", create, host(map[string]any{"OomScoreAdj": 5000}), 400, "oom score adj"},
		{"POST", create, host(map[string]any{"RestartPolicy": map[string]any{"Name": "sometimes"}}), 400, "sometimes"},
		{"POST", create, host(map[string]any{"RestartPolicy": map[string]any{"Name": "no", "MaximumRetryCount": 3}}), 400, "maximum retry count"},
		{"POST", create, host(map[string]any{"AutoRemove": true, "RestartPolicy": map[string]any{"Name": "always"}}), 400, "can't create 'AutoRemove' container with restart policy"},
		{"POST", create, host(map[string]any{"PortBindings": map[string]any{"99999/tcp": []any{map[string]any{"HostPort": "1"}}}}), 400, ""},
		{"POST", create, host(map[string]any{"PortBindings": map[string]any{"80/tcp": []any{map[string]any{"HostPort": "99999"}}}}), 400, "nvalid"},
		{"POST", create, host(map[string]any{"CapAdd": []string{"NONSENSE"}}), 400, "NONSENSE"},
		{"POST", create, host(map[string]any{"SecurityOpt": []string{"nonsense=1"}}), 400, "nonsense"},
		{"POST", create, host(map[string]any{"LogConfig": map[string]any{"Type": "nonsense"}}), 400, "nonsense"},
		{"POST", create, host(map[string]any{"LogConfig": map[string]any{"Type": "json-file", "Config": map[string]string{"max-size": "big"}}}), 400, "big"},
		{"POST", create, host(map[string]any{"Runtime": "nosuch"}), 400, "nosuch"},
		{"POST", create, host(map[string]any{"IpcMode": "nonsense"}), 400, "nonsense"},
		{"POST", create, host(map[string]any{"PidMode": "nonsense"}), 400, "nonsense"},
		{"POST", create, map[string]any{"Image": "busybox", "StopSignal": "NONSENSE"}, 400, "NONSENSE"},
		{"POST", create, map[string]any{"Image": "busybox", "WorkingDir": "relative"}, 400, "relative"},
		{"POST", create, map[string]any{"Image": "busybox", "Env": []string{"=x"}}, 400, "nvalid environment variable"},
		{"POST", create, map[string]any{"Image": "busybox", "Healthcheck": map[string]any{"Test": []string{"CMD", "x"}, "Interval": 5}}, 400, "Interval"},
		{"POST", create, map[string]any{"Image": "busybox", "Hostname": strings.Repeat("h", 300)}, 400, ""},
		// Mounts.
		{"POST", create, host(map[string]any{"Binds": []string{"relative:/x"}}), 201, ""}, // a volume of that name
		{"POST", create, host(map[string]any{"Binds": []string{"/tmp:relative"}}), 400, "invalid mount path"},
		{"POST", create, host(map[string]any{"Binds": []string{"/tmp:/x:nonsense"}}), 400, "nonsense"},
		{"POST", create, host(map[string]any{"Binds": []string{"a/b:/x"}}), 400, "includes invalid characters for a local volume name"},
		{"POST", create, host(map[string]any{"Binds": []string{":::::"}}), 400, "nvalid"},
		{"POST", create, host(map[string]any{"Binds": []string{"/tmp:/"}}), 400, "destination can't be '/'"},
		{"POST", create, host(map[string]any{"Binds": []string{"/tmp:/x", "/etc:/x"}}), 400, "Duplicate mount point: /x"},
		{"POST", create, mounts(map[string]any{"Type": "nonsense", "Target": "/x"}), 400, "nonsense"},
		{"POST", create, mounts(map[string]any{"Type": "bind", "Source": "/nosuch/path", "Target": "/x"}), 400, "bind source path does not exist: /nosuch/path"},
		{"POST", create, mounts(map[string]any{"Type": "bind", "Source": "", "Target": "/x"}), 400, "field Source must not be empty"},
		{"POST", create, mounts(map[string]any{"Type": "volume", "Source": "v", "Target": ""}), 400, "field Target must not be empty"},
		{"POST", create, mounts(map[string]any{"Type": "tmpfs", "Source": "/x", "Target": "/y"}), 400, "ource"},
		{"POST", create, host(map[string]any{"VolumesFrom": []string{"nosuch"}}), 400, "No such container: nosuch"},
		// Names of any length and number.
		{"GET", "/containers/" + long + "/json", nil, 404, "No such container"},
		{"GET", "/images/" + strings.Repeat("i", 300) + "/json", nil, 0, ""},
		{"POST", "/volumes/create", map[string]any{"Name": strings.Repeat("v", 300)}, 0, ""},
		{"GET", "/containers/json?filters=" + manyFilters(), nil, 200, ""},
	} {
		what := fmt.Sprintf("%s %s %.120s", tc.method, tc.path[:min(len(tc.path), 90)], fmt.Sprint(tc.body))
		code, body := d.API(tc.method, tc.path, tc.body)
		if engine == testkit.Dockerd && tc.code == 400 && (code == 500 || code == 201) {
			continue // 20.10: later ones say 400, or say it at once
		}
		var m struct {
			Message string
			ID      string
		}
		err := json.Unmarshal(body, &m)
		switch {
		case tc.code == 0 && (code < 400 || code >= 500), tc.code != 0 && code != tc.code:
			t.Errorf("%s: %d %s, want %d", what, code, body, tc.code)
		case code >= 400 && (err != nil || m.Message == ""):
			t.Errorf("%s: no message: %s", what, body)
		case !strings.Contains(m.Message, tc.text):
			t.Errorf("%s: %q, want it to contain %q", what, m.Message, tc.text)
		}
		if m.ID != "" && strings.HasPrefix(tc.path, create) {
			d.API(http.MethodDelete, "/containers/"+m.ID+"?v=1&force=1", nil)
		}
	}
	equal(t, "containers", strings.Join(strings.Fields(d.Docker("ps", "-a", "--format", "{{.Names}}")), " "), "made runs")
	notOnTwin(t, "the rest looks into our own daemon")
	equal(t, "volumes", d.Docker("volume", "ls", "-q"), "relative")
	equal(t, "networks", strings.Join(strings.Fields(d.Docker("network", "ls", "--format", "{{.Name}}")), " "), "bridge host none")
	if strings.Contains(d.Logs(), "goroutine ") {
		t.Error("the daemon panicked")
	}
}

func manyFilters() string {
	labels := make([]string, 2000)
	for i := range labels {
		labels[i] = "l" + strconv.Itoa(i)
	}
	b, err := json.Marshal(map[string][]string{"label": labels})
	if err != nil {
		panic(err) // strings always encode
	}
	return url.QueryEscape(string(b))
}

// peak is the most memory that the daemon ever had, in MiB.
func peak(t *testing.T, d *testkit.Daemon) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// TestHugeInputIsBounded: requests that pretend to be small things and never end.
func TestHugeInputIsBounded(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it looks into our own daemon")
	d := own(t, testkit.Options{})
	up(d, "--name", "target", "busybox", "sleep", "600")
	before := peak(t, d)
	zeroes := make([]byte, 96<<20)
	for name, path := range map[string]string{
		"create": "/containers/create", "exec": "/containers/target/exec", "volume": "/volumes/create",
		"network": "/networks/create", "auth": "/auth", "update": "/containers/target/update",
	} {
		body := append([]byte(`{"Image":"`), bytes.Repeat([]byte("x"), 64<<20)...)
		code, reply, err := d.TryAPI(http.MethodPost, path, body)
		if err == nil && code != 400 && code != 413 { // a reset connection is an answer too
			t.Errorf("%s: %d %.200s", name, code, reply)
		}
	}
	// A gzip bomb as an image, as a layer for a container, and as a build context.
	var bomb bytes.Buffer
	z, err := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if _, err := z.Write(zeroes); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/images/load", "/images/create?fromSrc=-&repo=bomb"} {
		code, reply := d.API(http.MethodPost, path, bomb.Bytes())
		if code >= 500 && !bytes.Contains(reply, []byte("message")) {
			t.Errorf("%s: %d %.200s", path, code, reply)
		}
	}
	if code, reply := d.API(http.MethodPut, "/containers/target/archive?path=/tmp", bomb.Bytes()); code >= 500 {
		t.Errorf("archive: %d %.200s", code, reply)
	}
	// Extended headers of which each claims megabytes.
	var pax bytes.Buffer
	w := tar.NewWriter(&pax)
	h := &tar.Header{Name: "f", Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"HOLDFAST.x": strings.Repeat("y", 900<<10)}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.API(http.MethodPut, "/containers/target/archive?path=/tmp", bytes.Repeat(pax.Bytes()[:900<<10], 20))
	if after := peak(t, d); after > before+160 {
		t.Errorf("the daemon's memory went from %d to %d MiB", before, after)
	}
	equal(t, "still there", d.Docker("exec", "target", "echo", "hi"), "hi")
}

// TestHostileArchivesForContainers: what an archive does to a container stays in it.
func TestHostileArchivesForContainers(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "target", "busybox", "sleep", "600")
	outside := filepath.Join(d.Dir(), "outside")
	d.Exec("mkdir", "-p", outside)
	raw := func(hs ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			h.Mode = 0o644
			body := ""
			if h.Typeflag == tar.TypeReg {
				body = "evil"
				h.Size = int64(len(body))
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	up1 := strings.Repeat("../", 12)
	for name, b := range map[string][]byte{
		"link and through it":    raw(tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, tar.Header{Typeflag: tar.TypeReg, Name: "l/file"}),
		"relative link":          raw(tar.Header{Typeflag: tar.TypeSymlink, Name: "m", Linkname: up1 + outside[1:]}, tar.Header{Typeflag: tar.TypeReg, Name: "m/file"}),
		"hard link to a link":    raw(tar.Header{Typeflag: tar.TypeSymlink, Name: "n", Linkname: "/etc"}, tar.Header{Typeflag: tar.TypeLink, Name: "o", Linkname: "n/shadow"}),
		"hard link out":          raw(tar.Header{Typeflag: tar.TypeLink, Name: "p", Linkname: up1 + "etc/hostname"}),
		"file over a link":       raw(tar.Header{Typeflag: tar.TypeSymlink, Name: "q", Linkname: outside + "/made"}, tar.Header{Typeflag: tar.TypeReg, Name: "q"}),
		"twice":                  raw(tar.Header{Typeflag: tar.TypeReg, Name: "r"}, tar.Header{Typeflag: tar.TypeDir, Name: "r"}, tar.Header{Typeflag: tar.TypeReg, Name: "r"}),
		"folder over a link":     raw(tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: outside}, tar.Header{Typeflag: tar.TypeDir, Name: "s"}, tar.Header{Typeflag: tar.TypeReg, Name: "s/file"}),
		"disk":                   raw(tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Devminor: 0}),
		"name of the root":       raw(tar.Header{Typeflag: tar.TypeSymlink, Name: ".", Linkname: outside}, tar.Header{Typeflag: tar.TypeReg, Name: "file"}),
		"empty name":             raw(tar.Header{Typeflag: tar.TypeReg, Name: ""}),
		"nothing but the header": raw(tar.Header{Typeflag: tar.TypeReg, Name: "cut"})[:512],
	} {
		code, body := d.API(http.MethodPut, "/containers/target/archive?path=/tmp", b)
		if code >= 500 && !bytes.Contains(body, []byte("message")) {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if left := d.Exec("sh", "-c", "ls -A "+outside); left != "" {
			t.Fatalf("%s: wrote %s outside of the container", name, left)
		}
	}
	if out := d.Docker("exec", "target", "sh", "-c", "find /tmp -links +1 -type f"); out != "" {
		t.Errorf("linked to something outside: %s", out)
	}
	if r := d.DockerResult("exec", "target", "sh", "-c", "test ! -b /tmp/disk || head -c 1 /tmp/disk"); r.Out != "" {
		t.Error("a device node from an archive can be read")
	}
	equal(t, "still there", d.Docker("exec", "target", "echo", "hi"), "hi")
}
