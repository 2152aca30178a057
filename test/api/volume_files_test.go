package api

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVolumeCopy(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	one := write("src/one", "one")
	write("src/deep/two", "two")
	src := filepath.Dir(one)
	cp := func(from, to string) {
		t.Helper()
		d.Holdfast("volume", "cp", from, to)
	}
	// The rules of docker cp, seen by a container that runs with the volume.
	up(d, "--name", "cp-sees", "-v", "cp-a:/d", "busybox", "sleep", "1000")
	sees := func(script string) string { return d.Docker("exec", "cp-sees", "sh", "-c", "cd /d; "+script) }
	cp(one, "cp-a:/")
	cp(one, "cp-a:/renamed")
	cp(src, "cp-a:/made")
	cp(src, "cp-a:/made")
	cp(src+"/.", "cp-a:made")
	equal(t, "from the host", sees("find . | sort; cat renamed made/src/deep/two; stat -c %a one"),
		".\n./made\n./made/deep\n./made/deep/two\n./made/one\n./made/src\n./made/src/deep\n./made/src/deep/two\n./made/src/one\n./one\n./renamed\nonetwo640")
	for _, tc := range []struct{ from, to, want string }{
		{src, "cp-a:/one", "cannot copy directory"},
		{one, "cp-a:/none/", "no such directory"},
		{one, "cp-a:/none/x", "Could not find the file"},
		{filepath.Join(dir, "none"), "cp-a:/", "no such file"},
		{"cp-a:/none", dir, "Could not find the file /none in volume cp-a"},
		{"cp-none:/x", dir, "no such volume"},
		{one, "cp-none:/x", "no such volume"},
		{"cp-a:/one", "cp-a:/x", "both are in one volume"},
		{one, dir + "/x", "is in a volume"},
		{"cp-a@none:/one", dir, "no such snapshot"},
	} {
		holdfastFails(t, d, tc.want, "volume", "cp", tc.from, tc.to)
	}

	// From the volume, a snapshot of it, to another, and containers.
	cp("cp-a:/made/.", dir+"/out")
	equal(t, "to the host", read("out/deep/two"), "two")
	d.Holdfast("volume", "snapshot", "create", "--live", "cp-a@before")
	sees("echo changed > one; chown 7:8 renamed; ln -s /made/one link; ln -s /etc/hostname out; ln -s deep made/way")
	cp("cp-a@before:/one", dir+"/old")
	equal(t, "of the snapshot", read("old"), "one")
	holdfastFails(t, d, "is a snapshot and read-only", "volume", "cp", one, "cp-a@before:/")
	d.Docker("volume", "create", "cp-b")
	cp("cp-a:/.", "cp-b:/")
	cp("cp-a@before:/one", "cp-a:/restored")
	equal(t, "between volumes", d.Docker("run", "--rm", "-v", "cp-b:/b", "-v", "cp-a:/a", "busybox", "sh", "-c", "cd /b; cat one; stat -c %u:%g renamed; readlink link; cat /a/restored"),
		"changed\n7:8\n/made/one\none")
	cp("container:cp-sees:/etc/hostname", "cp-b:/of-container")
	cp("cp-b:/renamed", "container:cp-sees:/tmp/there")
	equal(t, "to a container", sees("cat /tmp/there; cat /etc/hostname"), "one"+d.Docker("exec", "cp-sees", "hostname"))

	// Links lead nowhere but inside.
	cp(one, "cp-a:/made/way/")
	equal(t, "through a link", sees("cat made/deep/one"), "one")
	holdfastFails(t, d, "Could not find the file", "volume", "cp", "-L", "cp-a:/out", dir+"/never")
	d.Holdfast("volume", "cp", "-L", "cp-a:/link", dir+"/followed")
	equal(t, "-L", read("followed"), "one")
	hostname, err := os.ReadFile("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	holdfastFails(t, d, "Could not find the file /etc in volume cp-a", "volume", "cp", write("evil", "evil"), "cp-a:/out")
	if after, err := os.ReadFile("/etc/hostname"); err != nil || !bytes.Equal(after, hostname) {
		t.Fatalf("a link led to the host: %q, %v", after, err)
	}
}

func TestVolumeCopyHostileTar(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	d.Docker("volume", "create", "cp-hostile")
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := func(entries ...tar.Header) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			h.Mode, h.Size = 0o666, 0
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := w.Write([]byte("evil")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	// Each may be refused or stay inside; none may reach the host.
	for name, tarball := range map[string]string{
		"up":            made(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("../", 40) + strings.TrimPrefix(secret, "/")}),
		"absolute":      made(tar.Header{Typeflag: tar.TypeReg, Name: secret}),
		"link to dir":   made(tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, tar.Header{Typeflag: tar.TypeReg, Name: "l/secret"}),
		"link to file":  made(tar.Header{Typeflag: tar.TypeSymlink, Name: "f", Linkname: secret}, tar.Header{Typeflag: tar.TypeReg, Name: "f"}),
		"hard link":     made(tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: secret}),
		"hard link up":  made(tar.Header{Typeflag: tar.TypeLink, Name: "u", Linkname: strings.Repeat("../", 40) + strings.TrimPrefix(secret, "/")}),
		"relative link": made(tar.Header{Typeflag: tar.TypeSymlink, Name: "r", Linkname: strings.Repeat("../", 40) + strings.TrimPrefix(outside, "/")}, tar.Header{Typeflag: tar.TypeReg, Name: "r/secret"}),
	} {
		r := d.Run(tarball, "holdfast", "volume", "cp", "-", "cp-hostile:/")
		if b, err := os.ReadFile(secret); err != nil || string(b) != "of the host" {
			t.Fatalf("%s: the host's file is %q, %v: %s", name, b, err, r)
		}
	}
	if got := d.Docker("run", "--rm", "-v", "cp-hostile:/d", "busybox", "sh", "-c", "grep -rl 'of the host' /d || echo none"); got != "none" {
		t.Errorf("the host's file is in the volume: %s", got)
	}
	if r := d.Run("no tar at all, but long enough to be read as if it were one", "holdfast", "volume", "cp", "-", "cp-hostile:/"); r.Code == 0 {
		t.Errorf("what is no tar was taken: %s", r)
	}
	r := d.Run("", "holdfast", "volume", "cp", "cp-hostile:/.", "-")
	if _, err := tar.NewReader(strings.NewReader(r.Out)).Next(); r.Code != 0 || err != nil {
		t.Errorf("a tar to STDOUT: %v, %s", err, r.Err)
	}
	if code, body := d.API(http.MethodPut, "/holdfast/v1/volumes/cp-hostile/archive", nil); code != http.StatusBadRequest || !strings.Contains(string(body), "path cannot be empty") {
		t.Errorf("no path: %d %s", code, body)
	}
}

func TestVolumeTop(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	d.Docker("volume", "create", "top-still")
	up(d, "--name", "top-writer", "-v", "top-busy:/d", "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/d/$((i%500)) bs=64k count=1 2>/dev/null; done")
	d.Eventually(time.Minute, "the volume that is written to is first", func() (bool, string) {
		var rows []struct {
			Name           string
			BytesPerSecond float64
			Containers     []string
		}
		if err := json.Unmarshal([]byte(d.Holdfast("volume", "top", "--no-stream", "--json", "-i", "300ms", "-n", "1")), &rows); err != nil {
			return false, err.Error()
		}
		ok := len(rows) == 1 && rows[0].Name == "top-busy" && rows[0].BytesPerSecond > 0 && strings.Join(rows[0].Containers, "") == "top-writer"
		return ok, fmt.Sprintf("%+v", rows)
	})
	d.Docker("rm", "-f", "top-writer")
	contains(t, "table", d.Holdfast("volume", "top", "--no-stream", "-i", "100ms", "-n", "1000"), "top-still")
	if code, body := d.API(http.MethodGet, "/holdfast/v1/usage?kind=nothing", nil); code != http.StatusBadRequest || !strings.Contains(string(body), "unknown kind") {
		t.Errorf("kind: %d %s", code, body)
	}
}
