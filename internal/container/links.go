package container

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Link is one --link of a container on the default network, where names are not
// resolved: the other container's address is in the hosts file, under its name,
// its hostname and the alias, and its ports and variables in the environment.
// Links on other networks are the network's affair.
type Link struct {
	Target string // ID
	Alias  string
}

// splitLink reads "name", "name:alias", or what inspect shows: "/name:/me/alias".
func splitLink(spec string) (name, alias string, err error) {
	name, alias, given := strings.Cut(spec, ":")
	if !given {
		alias = path.Base(name)
	}
	alias = path.Base(alias)
	if name == "" || alias == "." || alias == "/" || strings.ContainsAny(alias, ":= \t\n") {
		return "", "", invalid("bad format for links: %s", spec)
	}
	return name, alias, nil
}

// resolveLinks finds the containers that a new one on the default network links to.
func (s *Service) resolveLinks(h *container.HostConfig, specs []string) ([]Link, error) {
	const undefined = "conflicting options: %s type networking can't be used with links. This would result in undefined behavior"
	switch {
	case len(specs) == 0:
		return nil, nil
	case h.NetworkMode.IsHost():
		return nil, invalid(undefined, "host")
	case h.NetworkMode.IsContainer():
		return nil, invalid(undefined, "container")
	case h.NetworkMode.IsNone():
		return nil, invalid("conflicting options: links need a network")
	}
	var out []Link
	for _, spec := range specs {
		name, alias, err := splitLink(spec)
		if err != nil {
			return nil, err
		}
		var r Record
		for range 8 { // container:X of container:Y …
			c, err := s.lookup(name)
			if err != nil {
				// Not "not found": clients would take the image for missing.
				return nil, invalid("could not get container for %s: %s", name, err)
			}
			r = c.record()
			if !r.HostConfig.NetworkMode.IsContainer() {
				break
			}
			name = r.HostConfig.NetworkMode.ConnectedContainer()
		}
		if r.HostConfig.NetworkMode.IsHost() {
			return nil, invalid(undefined, "host")
		}
		out = append(out, Link{Target: r.ID, Alias: alias})
	}
	return out, nil
}

// nameLinks makes the linked containers known under name/alias. A name that is
// taken stays with its holder, as with Docker.
func (s *Service) nameLinks(name string, links []Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range links {
		key := name + "/" + l.Alias
		if _, taken := s.byName[key]; !taken && s.byID[l.Target] != nil {
			s.byName[key] = l.Target
		}
	}
}

// unnameLinks takes the names back that the links of the container called name have.
func (s *Service) unnameLinks(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byName, func(key, _ string) bool { return strings.HasPrefix(key, name+"/") })
}

// linkNames lists by ID the names that containers have through links of others.
func (s *Service) linkNames() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]string{}
	for key, id := range s.byName {
		if strings.Contains(key, "/") {
			out[id] = append(out[id], "/"+key)
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// shownLinks are a container's links as inspect shows them.
func (s *Service) shownLinks(r *Record) []string {
	var out []string
	for _, l := range r.Links {
		if c, err := s.lookup(l.Target); err == nil {
			out = append(out, fmt.Sprintf("/%s:/%s/%s", c.record().Name, r.Name, l.Alias))
		}
	}
	return out
}

// removeLink undoes one link, named "container/alias".
func (s *Service) removeLink(ctx context.Context, name string) error {
	parent, alias := path.Split(strings.TrimPrefix(name, "/"))
	if parent == "" {
		return conflict("Conflict, cannot remove the default link name of the container")
	}
	c, err := s.lookup(strings.TrimSuffix(parent, "/"))
	if err != nil {
		return fault.Wrap(errdefs.ErrNotFound, err, "Cannot get parent %s for link name %s", parent, name)
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	at := slices.IndexFunc(r.Links, func(l Link) bool { return l.Alias == alias })
	if at < 0 {
		return fault.New(errdefs.ErrNotFound, "no link %s of container %s", alias, r.Name)
	}
	c.mu.Lock()
	c.rec.Links = slices.Delete(slices.Clone(r.Links), at, at+1)
	c.mu.Unlock()
	if err := s.save(c); err != nil {
		c.mu.Lock()
		c.rec.Links = r.Links
		c.mu.Unlock()
		return err
	}
	s.unnameLinks(r.Name)
	s.nameLinks(r.Name, c.record().Links)
	if err := s.closeLink(ctx, c); err != nil {
		return err
	}
	return s.rewriteLink(&r, r.Links[at], nil)
}

// closeLink takes from a container that runs the way to ports that a removed
// link kept open.
func (s *Service) closeLink(ctx context.Context, c *Container) error {
	r := c.record()
	if !r.Phase.alive() || r.Sandbox == nil {
		return nil
	}
	err := s.d.Networks.Relink(ctx, r.ID, linkTargets(&r))
	if errdefs.IsNotFound(err) { // it shares another's network
		return nil
	}
	return err
}

func linkTargets(r *Record) []string {
	var out []string
	for _, l := range r.Links {
		out = append(out, l.Target)
	}
	return out
}

// linked gives what a container that starts, or a further process of it, knows
// of those it links to: lines for its hosts file and variables. strict refuses
// links to what does not run.
func (s *Service) linked(r *Record, strict bool) (hosts, env []string, err error) {
	for _, l := range r.Links {
		c, err := s.lookup(l.Target)
		if errdefs.IsNotFound(err) {
			continue // removed; so was the link
		}
		if err != nil {
			return nil, nil, err
		}
		other := c.record()
		if !other.Phase.alive() {
			if strict {
				return nil, nil, fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s", other.Name, r.Name, l.Alias)
			}
			continue
		}
		addrs := defaultAddrs(&other)
		for _, a := range addrs {
			hosts = append(hosts, linkNamesOf(&other, l)+"="+a)
		}
		if len(addrs) > 0 {
			env = append(env, linkEnv(r.Name, l.Alias, addrs[0], &other)...)
		}
	}
	return hosts, env, nil
}

// defaultAddrs are a running container's addresses on the default network.
func defaultAddrs(r *Record) []string {
	if r.Sandbox == nil {
		return nil
	}
	ep := r.Sandbox.Endpoints[network.NetworkBridge]
	if ep == nil {
		return nil
	}
	var out []string
	if ep.IPAddress.IsValid() {
		out = append(out, ep.IPAddress.String())
	}
	if ep.GlobalIPv6Address.IsValid() {
		out = append(out, ep.GlobalIPv6Address.String())
	}
	return out
}

// linkNamesOf are the words after the address in the hosts file.
func linkNamesOf(other *Record, l Link) string {
	names := l.Alias
	for _, n := range []string{other.Config.Hostname, other.Name} {
		if n != "" && n != l.Alias {
			names += " " + n
		}
	}
	return names
}

// linkEnv are the variables of one link.
func linkEnv(parent, alias, addr string, other *Record) []string {
	prefix := strings.ToUpper(strings.ReplaceAll(alias, "-", "_"))
	ports := slices.SortedFunc(maps.Keys(other.Config.ExposedPorts), func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
	})
	var out []string
	for i, p := range ports {
		url := fmt.Sprintf("%s://%s:%d", p.Proto(), addr, p.Num())
		if i == 0 {
			out = append(out, prefix+"_PORT="+url)
		}
		one := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Num(), strings.ToUpper(string(p.Proto())))
		out = append(out, one+"="+url, one+"_ADDR="+addr, fmt.Sprintf("%s_PORT=%d", one, p.Num()), one+"_PROTO="+string(p.Proto()))
	}
	out = append(out, fmt.Sprintf("%s_NAME=/%s/%s", prefix, parent, alias))
	for _, kv := range other.Config.Env {
		key, value, ok := strings.Cut(kv, "=")
		if ok && key != "HOME" && key != "PATH" {
			out = append(out, prefix+"_ENV_"+key+"="+value)
		}
	}
	return out
}

// refreshLinks tells the running containers that link to one that just started
// its address of now.
func (s *Service) refreshLinks(r *Record) {
	if len(s.linkNames()[r.ID]) == 0 {
		return
	}
	for _, c := range s.all() {
		other := c.record()
		for _, l := range other.Links {
			if l.Target != r.ID || !other.Phase.alive() {
				continue
			}
			if err := s.rewriteLink(&other, l, r); err != nil {
				s.d.Log.Warn("hosts file does not follow link", logkey.Container, other.ID, logkey.Err, err)
			}
		}
	}
}

// rewriteLink puts the lines of one link in a running container's hosts file
// right; target nil takes them away. The file is mounted in the container: it is
// written in place.
func (s *Service) rewriteLink(r *Record, l Link, target *Record) error {
	if !r.Phase.alive() || r.Sandbox == nil || r.Sandbox.HostsPath == "" {
		return nil
	}
	old, err := os.ReadFile(r.Sandbox.HostsPath)
	if err != nil {
		return fmt.Errorf("read hosts file: %w", err)
	}
	var next []byte
	for line := range bytes.Lines(old) {
		if f := strings.Fields(string(line)); len(f) < 2 || f[1] != l.Alias {
			next = append(next, line...)
		}
	}
	if target != nil {
		for _, a := range defaultAddrs(target) {
			next = fmt.Appendf(next, "%s\t%s\n", a, linkNamesOf(target, l))
		}
	}
	f, err := os.OpenFile(r.Sandbox.HostsPath, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	_, err = f.Write(next)
	return errors.Join(err, f.Close())
}
