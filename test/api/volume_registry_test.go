package api

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A volume goes to a registry and comes back; what is damaged there, or is no
// volume, makes none.
func TestVolumeRegistry(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	const addr = "127.0.0.1:5061"
	const ref = addr + "/team/data:1"
	dir := filepath.Join(t.TempDir(), "registry")
	serveRegistry(t, d, addr, dir)
	const show = "cd /d; cat f; stat -c '%a %u:%g' f; readlink l; wc -c < random"
	d.Docker("run", "--rm", "-v", "reg1:/d", "busybox", "sh", "-c", "cd /d; echo one > f; chmod 640 f; chown 70:71 f; ln -s f l; head -c 3000000 /dev/urandom > random")
	d.Holdfast("volume", "snapshot", "create", "reg1@before")
	d.Docker("run", "--rm", "-v", "reg1:/d", "busybox", "sh", "-c", "echo two > /d/f")
	r := d.Run("", "holdfast", "volume", "export", "--registry", ref, "reg1@before")
	if r.Code != 0 || !strings.HasPrefix(r.Out, ref+"@sha256:") {
		t.Fatalf("%s", r)
	}
	equal(t, "import", d.Holdfast("volume", "import", "--registry", ref, "--label", "a=b", "reg2"), "reg2")
	equal(t, "its files", d.Docker("run", "--rm", "-v", "reg2:/d", "busybox", "sh", "-c", show), "one\n640 70:71\nf\n3000000")
	equal(t, "its label", d.Docker("volume", "inspect", "-f", "{{.Labels.a}}", "reg2"), "b")
	equal(t, "by digest", d.Holdfast("volume", "import", "--registry", strings.TrimSpace(r.Out), "reg3"), "reg3")
	holdfastFails(t, d, "already", "volume", "import", "--registry", ref, "reg2")
	d.Holdfast("volume", "export", "--registry", addr+"/team/data:2", "reg1")

	// What is no volume.
	d.Docker("tag", "busybox", addr+"/team/app:1")
	d.Docker("push", addr+"/team/app:1")
	d.Docker("rmi", addr+"/team/app:1")
	holdfastFails(t, d, "is no application/vnd.holdfast.volume.v1", "volume", "import", "--registry", addr+"/team/app:1", "reg4")
	holdfastFails(t, d, "not found", "volume", "import", "--registry", addr+"/team/none:1", "reg4")
	holdfastFails(t, d, "no such volume", "volume", "export", "--registry", addr+"/team/x:1", "reg-none")
	holdfastFails(t, d, "takes neither", "volume", "export", "--registry", ref, "-o", "x", "reg1")
	holdfastFails(t, d, "invalid reference", "volume", "export", "--registry", "Not A Name", "reg1")

	// As the user of docker login.
	private := newRegistry(t, d, registryOptions{addr: "127.0.0.1:5062", user: "me", password: "secret"})
	holdfastFails(t, d, "", "volume", "export", "--registry", private.addr+"/mine", "reg1")
	d.Docker("login", "-u", "me", "-p", "secret", private.addr)
	d.Holdfast("volume", "export", "--registry", private.addr+"/mine", "reg1")
	d.Holdfast("volume", "import", "--registry", private.addr+"/mine", "reg5")
	d.Docker("logout", private.addr)
	holdfastFails(t, d, "", "volume", "import", "--registry", private.addr+"/mine", "reg4")

	// A blob of it is damaged at its end, where the tar was read by then.
	damaged := 0
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil || len(b) < 2_900_000 {
			return err
		}
		damaged++
		b[len(b)-1] ^= 0xff // the checksum of the zstd frame, or what is beside it
		if err := os.Chmod(p, 0o600); err != nil {
			return err
		}
		return os.WriteFile(p, b, 0o600)
	})
	if err != nil || damaged == 0 {
		t.Fatalf("%d blobs damaged, %v", damaged, err)
	}
	if r := d.Run("", "holdfast", "volume", "import", "--registry", ref, "reg4"); r.Code == 0 {
		t.Errorf("a damaged volume was taken: %s", r)
	}
	equal(t, "no volume of any of those", d.Docker("volume", "ls", "-q", "--filter", "name=reg4"), "")
	equal(t, "the store of images has nothing of it", d.Docker("images", "-q", addr+"/team/data"), "")
}
