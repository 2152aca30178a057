// Package cdi gives containers devices by the Container Device Interface: what
// vendors describe in files of their own (device nodes, mounts, variables, hooks)
// is put into the spec of a container that asks for the device by its name.
package cdi

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"holdfast.dev/holdfast/internal/container"
)

// Registry knows the devices that the files in its folders describe. The folders
// are read when somebody asks: drivers write the files at any time.
type Registry struct{ dirs []string }

var _ container.Devices = (*Registry)(nil)

// New returns a Registry. Without folders there are no devices.
func New(dirs []string) *Registry { return &Registry{dirs: slices.Clone(dirs)} }

// Dirs are the folders.
func (r *Registry) Dirs() []string { return slices.Clone(r.dirs) }

// read returns what the files say now; nil without folders. A file that cannot be
// read has no devices: who asks for one of them is told that there is none.
func (r *Registry) read() *cdi.Cache {
	if len(r.dirs) == 0 {
		return nil
	}
	c, err := cdi.NewCache(cdi.WithSpecDirs(r.dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil
	}
	return c
}

// Names implements container.Devices.
func (r *Registry) Names() []string {
	c := r.read()
	if c == nil {
		return nil
	}
	return c.ListDevices()
}

// Inject implements container.Devices.
func (r *Registry) Inject(s *specs.Spec, names []string) error {
	c := r.read()
	if c == nil {
		return errors.New("no folder of CDI files is configured (cdi-spec-dirs)")
	}
	_, err := c.InjectDevices(s, names...)
	return err
}
