// Command volplugin is a volume plugin for tests, made with Docker's own helper
// library: volumes are directories, and it says on standard output what it is
// asked.
//
//	volplugin SOCKET DIRECTORY
//
// With VOLPLUGIN_MOUNT=tmpfs in its environment each volume is a tmpfs while it is
// mounted, with a file "greeting" that says $GREETING.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync"

	"github.com/docker/go-plugins-helpers/volume"
	"golang.org/x/sys/unix"
)

type driver struct {
	dir   string
	tmpfs bool

	mu     sync.Mutex // guards what follows, and the output
	mounts map[string]int
}

func (d *driver) at(name string) string { return filepath.Join(d.dir, name) }

func (d *driver) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Create makes a volume; the option "file" names a file to put there.
func (d *driver) Create(r *volume.CreateRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.say("create %s %v", r.Name, r.Options)
	for k := range r.Options {
		if k != "file" {
			return fmt.Errorf("unknown option %q", k)
		}
	}
	if err := os.Mkdir(d.at(r.Name), 0o755); err != nil {
		return err
	}
	if f := r.Options["file"]; f != "" {
		return os.WriteFile(filepath.Join(d.at(r.Name), f), []byte("from the plugin\n"), 0o644)
	}
	return nil
}

// List tells all volumes.
func (d *driver) List() (*volume.ListResponse, error) {
	es, err := os.ReadDir(d.dir)
	out := &volume.ListResponse{}
	for _, e := range es {
		out.Volumes = append(out.Volumes, &volume.Volume{Name: e.Name()})
	}
	return out, err
}

// Get tells one.
func (d *driver) Get(r *volume.GetRequest) (*volume.GetResponse, error) {
	if _, err := os.Stat(d.at(r.Name)); err != nil {
		return nil, errors.New("no such volume")
	}
	return &volume.GetResponse{Volume: &volume.Volume{Name: r.Name}}, nil
}

// Remove deletes one that is not mounted.
func (d *driver) Remove(r *volume.RemoveRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.say("remove %s", r.Name)
	if d.mounts[r.Name] > 0 {
		return errors.New("volume is busy")
	}
	return os.RemoveAll(d.at(r.Name))
}

// Path tells where one is.
func (d *driver) Path(r *volume.PathRequest) (*volume.PathResponse, error) {
	return &volume.PathResponse{Mountpoint: d.at(r.Name)}, nil
}

// Mount counts.
func (d *driver) Mount(r *volume.MountRequest) (*volume.MountResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mounts[r.Name] == 0 && d.tmpfs {
		if err := unix.Mount("tmpfs", d.at(r.Name), "tmpfs", 0, "size=1m"); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(d.at(r.Name), "greeting"), []byte(os.Getenv("GREETING")+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	d.mounts[r.Name]++
	d.say("mount %s %d", r.Name, d.mounts[r.Name])
	return &volume.MountResponse{Mountpoint: d.at(r.Name)}, nil
}

// Unmount counts.
func (d *driver) Unmount(r *volume.UnmountRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mounts[r.Name] == 0 {
		return errors.New("not mounted")
	}
	if d.mounts[r.Name] == 1 && d.tmpfs {
		if err := unix.Unmount(d.at(r.Name), 0); err != nil {
			return err
		}
	}
	d.mounts[r.Name]--
	d.say("unmount %s %d", r.Name, d.mounts[r.Name])
	return nil
}

// Capabilities says that volumes are on this machine.
func (d *driver) Capabilities() *volume.CapabilitiesResponse {
	return &volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: "global"}}
}

func main() {
	const args = 3
	if len(os.Args) != args {
		log.Fatal("usage: volplugin SOCKET DIRECTORY")
	}
	d := &driver{dir: os.Args[2], tmpfs: os.Getenv("VOLPLUGIN_MOUNT") == "tmpfs", mounts: map[string]int{}}
	log.Fatal(volume.NewHandler(d).ServeUnix(os.Args[1], 0))
}
