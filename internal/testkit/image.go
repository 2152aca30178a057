package testkit

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// File is one entry of a layer.
type File struct {
	Body string
	Mode int64  // 0: 0644, or 0755 for a folder
	Link string // symbolic link to
	Dir  bool
	UID  int
	// Header, if set, changes the entry before it is written.
	Header func(*tar.Header)
}

// Layer maps paths without a leading slash to entries.
type Layer map[string]File

// ImageSpec is an image made by a test.
type ImageSpec struct {
	Ref    string
	Layers [][]byte       // tar files, lowest first
	Config map[string]any // Docker's image config: Cmd, Env, …
}

// Tar makes an uncompressed tar file with the layer's entries in order of path.
func (l Layer) Tar() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, p := range slices.Sorted(maps.Keys(l)) {
		f := l[p]
		h := &tar.Header{Name: p, Mode: f.Mode, Size: int64(len(f.Body)), Typeflag: tar.TypeReg, Uid: f.UID, Gid: f.UID}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		switch {
		case f.Dir:
			h.Typeflag, h.Size, h.Name = tar.TypeDir, 0, p+"/"
			if f.Mode == 0 {
				h.Mode = 0o755
			}
		case f.Link != "":
			h.Typeflag, h.Size, h.Linkname, h.Mode = tar.TypeSymlink, 0, f.Link, 0o777
		}
		if f.Header != nil {
			f.Header(h)
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err) // a test wrote an entry that tar cannot hold
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(f.Body)); err != nil {
				panic(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Archive makes the file that `docker save` would make of the image.
func (s ImageSpec) Archive() []byte {
	l := Layer{}
	var names, diffIDs []string
	var history []map[string]any
	for i, t := range s.Layers {
		name := digest(t) + ".tar"
		l[name] = File{Body: string(t)}
		names = append(names, name)
		diffIDs = append(diffIDs, "sha256:"+digest(t))
		history = append(history, map[string]any{"created": "2026-01-02T03:04:05Z", "created_by": fmt.Sprintf("layer %d", i)})
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
		"config": s.Config, "history": history,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		panic(err) // a test wrote a config that is no JSON
	}
	configName := digest(config) + ".json"
	l[configName] = File{Body: string(config)}
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{s.Ref}, "Layers": names}})
	if err != nil {
		panic(err)
	}
	l["manifest.json"] = File{Body: string(manifest)}
	return l.Tar()
}

// BusyboxLayer is a root file system made of Debian's busybox-static.
func BusyboxLayer(t TB) []byte {
	t.Helper()
	bin := RequireProgram(t, "busybox")
	body, err := os.ReadFile(bin)
	if err != nil {
		t.Fatalf("read busybox: %v", err)
	}
	list, err := exec.Command(bin, "--list").Output()
	if err != nil {
		t.Fatalf("busybox --list: %v", err)
	}
	l := Layer{
		"bin/busybox": {Body: string(body), Mode: 0o755},
		"etc/passwd":  {Body: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\nwww:x:33:33:www:/var/www:/bin/sh\n"},
		"etc/group":   {Body: "root:x:0:\nnogroup:x:65534:\nwww:x:33:\nextra:x:44:www\n"},
		"tmp":         {Dir: true, Mode: 0o1777},
		"root":        {Dir: true, Mode: 0o700},
	}
	for _, p := range []string{"bin", "dev", "etc", "home", "proc", "sys", "usr", "var", "var/www", "usr/share"} {
		l[p] = File{Dir: true}
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			l[path.Join("bin", applet)] = File{Link: "busybox"}
		}
	}
	return l.Tar()
}

// NettoolLayer holds internal/testkit/nettool, built for containers.
func NettoolLayer(t TB) []byte {
	t.Helper()
	RequireProgram(t, "go")
	body, err := nettool()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return Layer{"bin/nettool": {Body: string(body), Mode: 0o755}}.Tar()
}

// Image makes sure the daemon has a base image, which stays over Clean: "busybox"
// is Debian's busybox-static, "nettool" the same with nettool.
func (d *Daemon) Image(name string) string {
	d.t.Helper()
	d.mu.Lock()
	have := d.images[name]
	d.images[name] = true
	d.mu.Unlock()
	if have {
		return name
	}
	spec := ImageSpec{
		Ref: name + ":latest", Layers: [][]byte{BusyboxLayer(d.t)},
		Config: map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	}
	switch name {
	case "busybox":
	case "nettool":
		spec.Layers = append(spec.Layers, NettoolLayer(d.t))
	default:
		d.t.Fatalf("no such test image %q", name)
	}
	d.Load(spec)
	return name
}

// Load loads an image into the daemon.
func (d *Daemon) Load(s ImageSpec) {
	d.t.Helper()
	code, out := d.API(http.MethodPost, "/images/load", s.Archive())
	if code != http.StatusOK || bytes.Contains(out, []byte(`"error"`)) {
		d.t.Fatalf("load %s: %d %s", s.Ref, code, out)
	}
}
