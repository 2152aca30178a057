package container

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// VolumeUser is a container that has volumes.
type VolumeUser struct {
	ID      string
	Name    string
	Running bool // it has processes
	Paused  bool
	Image   string // the name it was made with
	Labels  map[string]string
	Command []string
	Env     []string
	Ports   []string
	Volumes []VolumeUse
}

// VolumeUse is one volume of a container.
type VolumeUse struct {
	Name     string // volume, or volume@snapshot
	ReadOnly bool
}

// VolumeUsers lists the containers that have volumes.
func (s *Service) VolumeUsers() []VolumeUser {
	var out []VolumeUser
	for _, c := range s.all() {
		r := c.record()
		if r.Phase == Removing || r.Phase == Dead {
			continue
		}
		if u := r.volumeUser(); len(u.Volumes) > 0 {
			out = append(out, u)
		}
	}
	return out
}

// VolumeUser tells of one container, by name or ID, with or without volumes.
func (s *Service) VolumeUser(name string) (VolumeUser, error) {
	c, err := s.lookup(name)
	if err != nil {
		return VolumeUser{}, err
	}
	r := c.record()
	return r.volumeUser(), nil
}

func (r *Record) volumeUser() VolumeUser {
	u := VolumeUser{
		ID: r.ID, Name: r.Name, Running: r.Phase.alive(), Paused: r.Phase == Paused,
		Command: append([]string{r.Path}, r.Args...),
	}
	if c := r.Config; c != nil {
		u.Image, u.Labels, u.Env = c.Image, maps.Clone(c.Labels), slices.Clone(c.Env)
		for p := range c.ExposedPorts {
			u.Ports = append(u.Ports, p.String())
		}
		slices.Sort(u.Ports)
	}
	for _, m := range r.Mounts {
		if m.Type == mount.TypeVolume {
			u.Volumes = append(u.Volumes, VolumeUse{Name: m.Name, ReadOnly: m.ReadOnly})
		}
	}
	return u
}

// Within runs a program in a running container, for the engine itself, until it has
// ended; where the context ends, it is killed. in may be nil.
func (s *Service) Within(ctx context.Context, name, user string, cmd []string, in io.Reader, out io.Writer) (code int, err error) {
	c, err := s.lookup(name)
	if err != nil {
		return -1, err
	}
	return s.runExec(ctx, c, container.ExecCreateRequest{Cmd: cmd, User: user}, in, out, func() {})
}
