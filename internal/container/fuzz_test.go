package container

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// blames tells whether an error blames the caller, as one about his input must.
func blames(err error) bool {
	return errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsConflict(err) || errdefs.IsNotImplemented(err) ||
		errdefs.IsPermissionDenied(err) || errdefs.IsOutOfRange(err) || errdefs.IsFailedPrecondition(err)
}

// Whatever the body of a create request says, it makes a container that can be
// started, looked at and removed without a trace, or it is refused as the
// caller's mistake.
func FuzzCreateAndStart(f *testing.F) {
	f.Add(`{"Image":"busybox"}`)
	f.Add(`{"Image":"db","HostConfig":{"NetworkMode":"host","PidMode":"host","IpcMode":"shareable","Privileged":true,"ReadonlyRootfs":true,"Init":true,"Tmpfs":{"/t":"size=1m,mode=700"},"SecurityOpt":["no-new-privileges","seccomp=unconfined"],"CapAdd":["ALL"],"CapDrop":["net_raw"],"GroupAdd":["1"],"ExtraHosts":["a:1.2.3.4"],"Links":["x:y"],"VolumesFrom":["z:ro"],"CpusetCpus":"0-2","DeviceCgroupRules":["c 1:3 rwm"]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var req container.CreateRequest
		if json.Unmarshal([]byte(body), &req) != nil || req.Config == nil {
			return
		}
		if req.HostConfig == nil {
			req.HostConfig = &container.HostConfig{}
		}
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(t)
			d := m.start(t, nil)
			defer d.stop()
			r, err := d.Create(t.Context(), CreateOptions{Name: "c1", Config: req.Config, HostConfig: req.HostConfig, Networking: req.NetworkingConfig})
			if err != nil {
				if !blames(err) {
					t.Errorf("create: nobody's fault: %v", err)
				}
				return
			}
			if _, err := d.Inspect(t.Context(), r.ID, true); err != nil {
				t.Errorf("inspect: %v", err)
			}
			_ = d.Start(t.Context(), r.ID) // what it asks for may not be on this machine
			if _, err := d.List(t.Context(), ListOptions{All: true}); err != nil {
				t.Errorf("list: %v", err)
			}
			if err := d.Remove(t.Context(), r.ID, RemoveOptions{Force: true, Volumes: true}); err != nil {
				t.Errorf("remove: %v", err)
			}
			synctest.Wait()
			for _, l := range m.check(d.Service) {
				t.Error("lie: " + l)
			}
		})
	})
}

func FuzzBind(f *testing.F) {
	for _, s := range []string{
		"/a", "/a:/b", "/a:/b:ro", "v:/b:nocopy,rw,z", ":/b", "/a:/b:", "/a:b", "v:/..:ro", "/a:/b:c:d", "v:/b:rslave", "/a/../b:/c//d/:rshared", "/foo:rw", "C:\\a:/b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseBind(s, "local")
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
			t.Errorf("%q mounts on %q", s, m.Target)
		}
		if m.Type == mount.TypeBind && !path.IsAbs(m.Source) || m.Type == mount.TypeVolume && m.Anonymous != (m.Name == "") {
			t.Errorf("%q is %+v", s, m)
		}
	})
}

func FuzzMount(f *testing.F) {
	f.Add(`{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rslave"}}`)
	f.Add(`{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"Subpath":"../x"}}`)
	f.Add(`{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":-1,"Options":[["exec"],[]]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		var m mount.Mount
		if json.Unmarshal([]byte(s), &m) != nil || checkMount(&m, func(string) bool { return true }) != nil {
			return
		}
		got := mountOf(m)
		if !path.IsAbs(got.Target) || got.Target == "/" {
			t.Errorf("%s mounts on %q", s, got.Target)
		}
		if got.Subpath != "" && !filepath.IsLocal(got.Subpath) {
			t.Errorf("%s leads to %q", s, got.Subpath)
		}
	})
}

// What is read of one text, whatever it is called on a command line.
func FuzzWords(f *testing.F) {
	for _, s := range []string{
		"", "c:ro", "0-3,5", "0-99999999", "c 1:3 rwm", "b *:* r", "name:1.2.3.4", "a=[::1]", "SIGTERM", "15", "seccomp=unconfined", "label=user:x",
		"no-new-privileges=false", "/dev/null:/dev/x:rw", "1:2", "nofile=1:2", "ctrl-p,ctrl-q",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, _, err := parseVolumesFrom(s); err == nil && strings.Contains(name, ":") {
			t.Errorf("volumes from %q", name)
		}
		if set, err := parseList(s); err == nil {
			for n := range set {
				if n < 0 || n > 8192 {
					t.Errorf("%q holds %d", s, n)
				}
			}
		}
		if r, err := parseDeviceRule(s); err == nil && (*r.Major < -1 || *r.Minor < -1) {
			t.Errorf("%q is device %d:%d", s, *r.Major, *r.Minor)
		}
		_, _ = parseSecurity([]string{s}, false)
		_, _ = parseSignal(s)
		_ = stopSignal(s)
		_ = validateExtraHost(s)
		_, _ = mergeTmpfs(splitOptions(s))
		_, _ = normalizeCaps([]string{s})
		_, _ = parseMode(s)
	})
}

func FuzzListFilters(f *testing.F) {
	f.Add(`{"name":["^/c1"],"label":["a=b"],"status":["running"],"exited":["0"],"publish":["80-90/tcp"],"expose":["1-65535"]}`)
	f.Add(`{"ancestor":["busybox"],"before":["c1"],"since":["c1"],"volume":["/v"],"network":["bridge"],"health":["none"],"is-task":["0"],"id":["("]}`)
	f.Add(`{"label!":["a"],"until":["1.999999999"],"isolation":["x"]}`)
	f.Fuzz(func(t *testing.T, s string) {
		var filters map[string][]string
		if json.Unmarshal([]byte(s), &filters) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := newMachine(t).start(t, nil)
			defer d.stop()
			d.create("c1", func(c *container.Config, _ *container.HostConfig) { c.Labels = map[string]string{"a": "b"} })
			if _, err := d.List(t.Context(), ListOptions{All: true, Filters: filters}); err != nil && !blames(err) {
				t.Errorf("nobody's fault: %v", err)
			}
			if _, err := d.Prune(t.Context(), filters); err != nil && !blames(err) {
				t.Errorf("prune: nobody's fault: %v", err)
			}
		})
	})
}

// The files are the container's own.
func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/:/bin/sh\n", "root:x:0:\nextra:x:44:www\n", "www", "extra")
	f.Add("a:b:c:d:e:f:g", ":::", "0:0", "4294967296")
	f.Add("x:x:-1:-1:::\n", "g:x:-5:\n", "x:g", "-7")
	f.Fuzz(func(t *testing.T, passwd, group, user, extra string) {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		u, err := lookupUser(root, user, []string{extra})
		if err == nil && (int32(u.UID) < 0 || int32(u.GID) < 0) {
			t.Errorf("user %d:%d", u.UID, u.GID)
		}
	})
}
