package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
)

// sandboxRequest is what a container asks of the networks.
func (s *Service) sandboxRequest(r *Record) SandboxRequest {
	h := r.HostConfig
	req := SandboxRequest{
		Container: r.ID, Name: r.Name, Hostname: r.Config.Hostname, Domainname: r.Config.Domainname,
		Ports: h.PortBindings, Exposed: r.Config.ExposedPorts, PublishAll: h.PublishAllPorts,
		DNS: h.DNS, DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions, ExtraHosts: h.ExtraHosts,
		Dir: s.dir(r.ID), Links: linkTargets(r), Task: r.Task,
	}
	if r.Config.NetworkDisabled || h.NetworkMode.IsNone() || h.NetworkMode.IsHost() {
		return req
	}
	req.Endpoints = map[string]*network.EndpointSettings{}
	for name, ep := range r.Endpoints {
		req.Endpoints[name] = ep.Copy()
	}
	return req
}

// joinNetwork gives the coming run its network, and writes it into the record.
func (s *Service) joinNetwork(ctx context.Context, c *Container, in *specInput, mounted <-chan struct{}) error {
	rec := c.record()
	mode := rec.HostConfig.NetworkMode
	if mode.IsContainer() {
		return s.joinOther(c, in)
	}
	in.hostnameFile = filepath.Join(s.dir(rec.ID), "hostname")
	if err := os.MkdirAll(s.dir(rec.ID), 0o710); err != nil {
		return fmt.Errorf("make folder of container: %w", err)
	}
	if err := os.WriteFile(in.hostnameFile, []byte(rec.Config.Hostname+"\n"), 0o644); err != nil { //nolint:forbidigo // made anew by every start
		return fmt.Errorf("write hostname: %w", err)
	}
	join := s.d.Networks.Join
	if mode.IsHost() {
		join = s.d.Networks.HostFiles
	}
	req := s.sandboxRequest(&rec)
	hosts, env, err := s.linked(&rec, true)
	if err != nil {
		return err
	}
	req.After = mounted // events come in Docker's order, whatever is done side by side
	req.ExtraHosts = append(slices.Clone(req.ExtraHosts), hosts...)
	in.linkEnv = env
	info, err := join(ctx, req)
	if err != nil {
		return fmt.Errorf("failed to set up container networking: %w", err)
	}
	in.netNS, in.hosts, in.resolvConf = info.NetNS, info.HostsPath, info.ResolvConfPath
	c.mu.Lock()
	c.rec.Sandbox = &info
	c.mu.Unlock()
	return nil
}

// joinOther enters the network of another container, with its names.
func (s *Service) joinOther(c *Container, in *specInput) error {
	rec := c.record()
	ref := rec.HostConfig.NetworkMode.ConnectedContainer()
	o, err := s.lookup(ref)
	if err != nil {
		return fault.Wrap(errdefs.ErrNotFound, err, "joining network namespace of container")
	}
	other := o.record()
	switch {
	case other.ID == rec.ID:
		return invalid("cannot join own network namespace")
	case other.Phase == Restarting:
		return fmt.Errorf("cannot join network namespace of container: %w", errRestarting(ref))
	case !other.Phase.alive():
		return conflict("cannot join network namespace of a non running container: container %s is %s", other.Name, other.state())
	}
	in.netNS = fmt.Sprintf("/proc/%d/ns/net", other.Pid)
	if sb := other.Sandbox; sb != nil && sb.NetNS != "" {
		in.netNS = sb.NetNS
	}
	if owner := s.networkOwner(&rec); owner != "" {
		s.shareFiles(owner, in)
	} else if sb := other.Sandbox; sb != nil { // the host's network
		in.hostnameFile = filepath.Join(s.dir(other.ID), "hostname")
		in.hosts, in.resolvConf = sb.HostsPath, sb.ResolvConfPath
	}
	cfg := *rec.Config
	cfg.Hostname, cfg.Domainname = other.Config.Hostname, other.Config.Domainname
	c.mu.Lock()
	c.rec.Config = &cfg
	c.mu.Unlock()
	return nil
}

// shareFiles gives a container the network files of the one whose network it
// uses, at the end of a row of container:X. That may have ended, or be gone.
func (s *Service) shareFiles(owner string, in *specInput) {
	for name, to := range map[string]*string{"hostname": &in.hostnameFile, "hosts": &in.hosts, "resolv.conf": &in.resolvConf} {
		if p := filepath.Join(s.dir(owner), name); s.d.Host.Exists(p) {
			*to = p
		}
	}
}

// shareNamespaces finds the PID and IPC namespaces to join, and /dev/shm.
func (s *Service) shareNamespaces(rec *Record, in *specInput) error {
	h := rec.HostConfig
	if ref := h.PidMode.Container(); ref != "" {
		other, err := s.runningOther(ref)
		if err != nil {
			return fmt.Errorf("failed to join PID namespace: %v", err) //nolint:errorlint // Docker tells no class here
		}
		in.pidNS = fmt.Sprintf("/proc/%d/ns/pid", other.Pid)
	}
	switch {
	case h.IpcMode.IsContainer():
		other, err := s.runningOther(h.IpcMode.Container())
		if err != nil {
			return fmt.Errorf("failed to join IPC namespace: %w", err)
		}
		in.ipcNS = fmt.Sprintf("/proc/%d/ns/ipc", other.Pid)
		switch m := other.HostConfig.IpcMode; {
		case m.IsShareable():
			in.shm = s.shmDir(other.ID)
		case m.IsHost():
			in.shm = "/dev/shm"
		default:
			return invalid("failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other.ID)
		}
	case h.IpcMode.IsHost():
		in.shm = "/dev/shm"
	case h.IpcMode.IsShareable():
		in.shm = s.shmDir(rec.ID)
		return mountShm(in.shm, h.ShmSize)
	}
	return nil
}

func (s *Service) runningOther(ref string) (Record, error) {
	c, err := s.lookup(ref)
	if err != nil {
		return Record{}, err
	}
	r := c.record()
	if r.Phase == Restarting {
		return r, errRestarting(r.ID)
	}
	if !r.Phase.alive() {
		return r, errNotRunning(r.ID)
	}
	return r, nil
}

// shmDir is where the /dev/shm of a container with shareable IPC is mounted on
// the host, for others to join.
func (s *Service) shmDir(id string) string { return filepath.Join(s.runDir(id), "shm") }

func mountShm(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make shm folder: %w", err)
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil || mounted {
		return err
	}
	err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", size))
	if err != nil {
		return fmt.Errorf("mounting shm tmpfs: %w", err)
	}
	return nil
}

func (s *Service) dropShm(id string) error {
	err := unix.Unmount(s.shmDir(id), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil // there is none
	}
	return err
}

// checkPropagation refuses propagation that the host's mount cannot give.
func checkPropagation(source string, p mount.Propagation) error {
	var words []string
	var need string
	switch p {
	case mount.PropagationShared, mount.PropagationRShared:
		words, need = []string{"shared:"}, "a shared mount"
	case mount.PropagationSlave, mount.PropagationRSlave:
		words, need = []string{"shared:", "master:"}, "a shared or slave mount"
	default:
		return nil
	}
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return err
	}
	var best *mountinfo.Info
	for _, i := range infos {
		if best == nil || len(i.Mountpoint) >= len(best.Mountpoint) {
			best = i
		}
	}
	if best == nil {
		return fmt.Errorf("Can't find mount point of %s", source)
	}
	for opt := range strings.FieldsSeq(best.Optional) {
		for _, w := range words {
			if strings.HasPrefix(opt, w) {
				return nil
			}
		}
	}
	return invalid("path %s is mounted on %s but it is not %s", source, best.Mountpoint, need)
}
