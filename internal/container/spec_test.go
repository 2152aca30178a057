package container

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files anew")

// specCase is one golden spec.
func specCases() map[string]func(in *specInput) {
	return map[string]func(in *specInput){
		"default": func(*specInput) {},
		"busy": func(in *specInput) {
			c, h := in.rec.Config, in.rec.HostConfig
			c.Tty, c.Domainname, c.WorkingDir, c.Env = true, "example.org", "/srv", []string{"A=1", "TERM=vt100"}
			yes, limit, umask := true, int64(50), uint32(0o27)
			h.Init, h.ReadonlyRootfs, h.ShmSize, h.PidsLimit, h.Umask = &yes, true, 1<<20, &limit, &umask
			h.CapAdd, h.CapDrop = []string{"net_admin"}, []string{"MKNOD"}
			h.Memory, h.MemorySwap, h.NanoCPUs, h.CPUShares, h.CpusetCpus = 64<<20, 128<<20, 15e8, 512, "0-1"
			h.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 1 << 20, Hard: 1 << 20}, {Name: "core", Soft: 0, Hard: -1}}
			h.Tmpfs = map[string]string{"/run": "size=1m,exec"}
			h.Sysctls = map[string]string{"net.core.somaxconn": "64"}
			h.ConsoleSize = [2]uint{24, 80}
			h.Annotations = map[string]string{"org.example": "x"}
			in.security.noNewPrivs = true
			in.user = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 27}}
			in.mounts = []bindSource{
				{Mount: Mount{Type: mount.TypeBind, Target: "/srv/deep/er", Propagation: mount.PropagationRSlave}, Path: "/host/deep"},
				{Mount: Mount{Type: mount.TypeVolume, Target: "/srv", ReadOnly: true}, Path: "/vols/srv"},
				{Mount: Mount{Type: mount.TypeTmpfs, Target: "/scratch", Options: &mount.Mount{TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 4096, Mode: 0o700}}}},
				{Mount: Mount{Type: mount.TypeBind, Target: "/etc/hosts", Propagation: mount.PropagationRPrivate}, Path: "/my/hosts"},
			}
			mode, zero := os.FileMode(0o660), uint32(0)
			in.devices = []specs.LinuxDevice{{Type: "c", Path: "/dev/fuse", Major: 10, Minor: 229, FileMode: &mode, UID: &zero, GID: &zero}}
			in.deviceRules = []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &in.devices[0].Major, Minor: &in.devices[0].Minor, Access: "rw"}}
		},
		"privileged": func(in *specInput) { in.rec.HostConfig.Privileged = true },
		"host-namespaces": func(in *specInput) {
			h := in.rec.HostConfig
			h.NetworkMode, h.PidMode, h.IpcMode, h.UTSMode, h.CgroupnsMode = "host", "host", "host", "host", "host"
			h.OomScoreAdj = -500
			in.netNS, in.shm = "", "/dev/shm"
			in.security.seccomp = unconfined
		},
		"shared-namespaces": func(in *specInput) {
			h := in.rec.HostConfig
			h.NetworkMode, h.PidMode, h.IpcMode = "container:x", "container:x", "container:x"
			in.netNS, in.pidNS, in.ipcNS, in.shm = "/netns/x", "/proc/7/ns/pid", "/proc/7/ns/ipc", "/run/x/shm"
		},
		"systemd-v2": func(in *specInput) {
			in.settings.SystemdCgroup, in.settings.CgroupVersion = true, 2
			in.rec.HostConfig.CgroupnsMode = container.CgroupnsModePrivate
		},
	}
}

func TestSpecGolden(t *testing.T) {
	for name, edit := range specCases() {
		t.Run(name, func(t *testing.T) {
			in := &specInput{
				host: testHost(), root: "/merged", netNS: "/netns/c1", hosts: "/c/hosts", resolvConf: "/c/resolv.conf", hostnameFile: "/c/hostname",
				user:     specs.User{AdditionalGids: []uint32{0}},
				settings: Settings{InitPath: "/usr/libexec/init", CgroupVersion: 1, Capabilities: append(slices.Clone(defaultCaps), "CAP_NET_ADMIN")},
				rec: Record{
					ID: strings.Repeat("c1", 32), Path: "/bin/sh", Args: []string{"-c", "true"},
					Config:     &container.Config{Hostname: "c1c1c1c1c1c1"},
					HostConfig: &container.HostConfig{NetworkMode: "bridge", IpcMode: "private", CgroupnsMode: "host", ShmSize: 64 << 20},
				},
			}
			edit(in)
			if !in.rec.HostConfig.Privileged {
				in.rec.HostConfig.MaskedPaths, in.rec.HostConfig.ReadonlyPaths = defaultMaskedPaths(in.host), defaultReadonlyPaths()
			}
			s, err := buildSpec(in)
			if err != nil {
				t.Fatal(err)
			}
			// The seccomp profile is moby's and depends on the kernel; that it is
			// there, and knows the capabilities, is ours.
			wantSeccomp := name != "privileged" && name != "host-namespaces"
			if (s.Linux.Seccomp != nil) != wantSeccomp {
				t.Errorf("seccomp profile: %v", s.Linux.Seccomp != nil)
			}
			s.Linux.Seccomp = nil
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "spec", name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("spec differs from %s; run with -update and look at the difference:\n%s", file, got)
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	have := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"}
	for _, c := range []struct {
		name      string
		priv      bool
		add, drop []string
		want      string
	}{
		{"default is cut to what the daemon has", false, nil, nil, "CAP_CHOWN CAP_KILL"},
		{"privileged is all the daemon has", true, nil, []string{"ALL"}, "CAP_CHOWN CAP_KILL CAP_NET_ADMIN"},
		{"add", false, []string{"net_admin"}, nil, "CAP_CHOWN CAP_KILL CAP_NET_ADMIN"},
		{"add all but one", false, []string{"ALL"}, []string{"KILL"}, "CAP_CHOWN CAP_NET_ADMIN"},
		{"drop all but one", false, []string{"KILL"}, []string{"all"}, "CAP_KILL"},
		{"what the daemon lacks", false, []string{"SYS_ADMIN"}, nil, "error: cannot add capability CAP_SYS_ADMIN: the daemon does not have it"},
	} {
		got, err := capabilities(c.priv, c.add, c.drop, have)
		text := strings.Join(got, " ")
		if err != nil {
			text = "error: " + err.Error()
		}
		if text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

func TestUserLookupStaysInside(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("real/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:50::/home/app:/bin/sh\n")
	write("etc/group", "root:x:0:\nstaff:x:50:\nextra:x:60:app\nmore:x:70:\n")
	// An absolute link means the container's root, one that climbs ends there.
	if err := os.Symlink("/../../real/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	u, err := lookupUser(root, "app", []string{"more"})
	if err != nil || u.UID != 1000 || u.GID != 50 || !slices.Equal(u.AdditionalGids, []uint32{50, 60, 70}) {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err = lookupUser(root, "1234:staff", nil); err != nil || u.UID != 1234 || u.GID != 50 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err = lookupUser(root, "nobody-here", nil); err == nil || !strings.Contains(err.Error(), "no matching entries in passwd file") {
		t.Errorf("unknown user: %v", err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	if err := makeWorkdir(root, "/out/dir"); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Error("the working directory was made outside the container")
	}
}
