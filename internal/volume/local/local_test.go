package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/drivertest"
)

func noResolver(context.Context, string) (string, error) { return "", errors.New("no such host") }

func newDriver(t *testing.T, dir string) volume.Driver {
	t.Helper()
	d, err := New(filepath.Join(dir, "volumes"), noResolver)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount and change owners")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	needRoot(t)
	drivertest.Run(t, newDriver, drivertest.Caps{KeepsData: true, Posix: true})
}

func TestTmpfs(t *testing.T) {
	needRoot(t)
	drivertest.Run(t, newDriver, drivertest.Caps{Posix: true, Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=16m,mode=0755"}})
}

func TestBind(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	must(t, os.WriteFile(precious, []byte("p"), 0o600))
	d := newDriver(t, t.TempDir())
	v := volume.Spec{Name: "bound", Options: map[string]string{"type": "none", "o": "bind", "device": outside}}
	must(t, d.CheckOptions(v.Options))
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	if b, err := os.ReadFile(filepath.Join(d.Path(v), "precious")); err != nil || string(b) != "p" {
		t.Errorf("got %q, %v", b, err)
	}
	must(t, d.Remove(t.Context(), v)) // while mounted: what is behind stays
	if _, err := os.Stat(precious); err != nil {
		t.Fatal(err)
	}
	v.Options["device"] = "/nonexistent/dir"
	must(t, d.Create(t.Context(), v))
	if err := d.Mount(t.Context(), v); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "failed to mount local volume: mount /nonexistent/dir:") {
		t.Errorf("missing device: %v", err)
	}
}

// Somebody's own mount below a volume must survive its removal.
func TestForeignMountBelowIsNotDeleted(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	must(t, os.WriteFile(precious, nil, 0o600))
	d := newDriver(t, t.TempDir())
	v := volume.Spec{Name: "vol"}
	must(t, d.Create(t.Context(), v))
	at := filepath.Join(d.Path(v), "at")
	must(t, os.Mkdir(at, 0o700))
	must(t, unix.Mount(outside, at, "", unix.MS_BIND, ""))
	err := d.Remove(t.Context(), v)
	must(t, unix.Unmount(at, 0))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), at) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	must(t, d.Remove(t.Context(), v))
}

func TestOptions(t *testing.T) {
	d := newDriver(t, t.TempDir())
	for want, o := range map[string]map[string]string{
		"":                                  {"type": "nfs", "device": ":/x", "o": "addr=1.2.3.4"},
		`invalid option: "foo"`:             {"foo": "bar"},
		`missing required option: "device"`: {"type": "tmpfs"},
		`missing required option: "type"`:   {"device": "/x"},
		`quota size requested but no quota support`:                   {"size": "10g"},
		`invalid size: 'much'`:                                        {"size": "much"},
		`port not allowed in CIFS device URL, include 'port' in 'o='`: {"type": "cifs", "device": "//host:445/share"},
	} {
		err := d.CheckOptions(o)
		if want == "" {
			must(t, err)
			continue
		}
		if err == nil || err.Error() != want || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want %s", o, err, want)
		}
	}
}

func TestShareAddressIsResolved(t *testing.T) {
	d := &Driver{resolve: func(_ context.Context, host string) (string, error) { return "10.0.0." + host[len(host)-1:], nil }}
	for _, c := range []struct{ typ, device, o, wantDevice, wantO string }{
		{"nfs", ":/export", "addr=server7,rw", ":/export", "addr=10.0.0.7,rw"},
		{"nfs", ":/export", "rw,addr=1.2.3.4", ":/export", "rw,addr=1.2.3.4"},
		{"nfs", "server7:/export", "rw", "server7:/export", "rw"},
		{"cifs", "//server7/a share%20", "username=u", "//10.0.0.7/a share%20", "username=u"},
		{"cifs", "//server7/share", "addr=server8", "//server7/share", "addr=10.0.0.8"},
		{"ext4", "server7", "addr=server8", "server7", "addr=server8"},
	} {
		device, o, err := d.source(t.Context(), map[string]string{"type": c.typ, "device": c.device, "o": c.o})
		if err != nil || device != c.wantDevice || o != c.wantO {
			t.Errorf("%+v: %s %s %v", c, device, o, err)
		}
	}
	d.resolve = noResolver
	if _, _, err := d.source(t.Context(), map[string]string{"type": "nfs", "device": ":/x", "o": "addr=server7"}); err == nil ||
		!strings.Contains(err.Error(), "error resolving passed in network volume address") {
		t.Errorf("got %v", err)
	}
}

func TestPasswordIsNotShown(t *testing.T) {
	needRoot(t)
	d := newDriver(t, t.TempDir())
	v := volume.Spec{Name: "share", Options: map[string]string{"type": "nosuchfs", "device": "//1.2.3.4/x", "o": "username=u,password=hush"}}
	must(t, d.Create(t.Context(), v))
	err := d.Mount(t.Context(), v)
	if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "password=********") {
		t.Errorf("got %v", err)
	}
}

func TestRemovalThatWasCutOffIsFinished(t *testing.T) {
	dir := t.TempDir()
	d := newDriver(t, dir)
	for _, n := range []string{gonePrefix + "x", newPrefix + "y"} {
		must(t, os.MkdirAll(filepath.Join(dir, "volumes", n, dataDir, "sub"), 0o700))
	}
	must(t, d.Create(t.Context(), volume.Spec{Name: "keep"}))
	newDriver(t, dir)
	es, err := os.ReadDir(filepath.Join(dir, "volumes"))
	if err != nil || len(es) != 1 || es[0].Name() != "keep" {
		t.Errorf("got %v, %v", es, err)
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=8"); err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	d := newDriver(t, dir)
	var err error
	var made []volume.Spec
	for i := 0; i < 8 && err == nil; i++ {
		v := volume.Spec{Name: "vol" + string(rune('a'+i))}
		if err = d.Create(t.Context(), v); err == nil {
			made = append(made, v)
		}
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "error while creating volume root path") {
		t.Fatalf("got %v", err)
	}
	es, rerr := os.ReadDir(filepath.Join(dir, "volumes"))
	if rerr != nil || len(es) != len(made) {
		t.Errorf("%d volumes made, folder holds %v, %v", len(made), es, rerr)
	}
	must(t, d.Remove(t.Context(), made[0]))
	must(t, d.Create(t.Context(), volume.Spec{Name: "again"}))
}
