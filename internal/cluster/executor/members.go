package executor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/cluster/sets"
	"holdfast.dev/holdfast/internal/stateful"
	"holdfast.dev/holdfast/internal/stateful/member"
)

// MemberPaths are where members of sets have what is theirs.
type MemberPaths struct {
	Program string // the helper, as built
	State   string // a folder for each volume, below the root
	Run     string // a folder for each task, below the exec root
}

// memberOf says which member of which set a task is; "" if it is none.
func memberOf(t *api.Task) (set, name string) {
	l := t.ServiceAnnotations.Labels
	return l[sets.LabelOf], l[sets.LabelMember]
}

// memberMounts are what the container of a member has beyond its own: the helper,
// a folder beside the volume, whose lock keeps every other container off it, and
// the helper's socket.
func (e *Executor) memberMounts(t *api.Task, spec *api.ContainerSpec) ([]mount.Mount, error) {
	set, name := memberOf(t)
	if set == "" {
		return nil, nil
	}
	if e.d.Members.Program == "" {
		return nil, errors.New("holdfast-member is missing: it belongs beside the daemon (make build puts it there)")
	}
	volume := ""
	for _, m := range spec.Mounts {
		if m.Type == api.MountTypeVolume {
			volume = m.Source
		}
	}
	if volume == "" {
		return nil, fmt.Errorf("member %s of a set has no volume", name)
	}
	state, run := filepath.Join(e.d.Members.State, volume), e.memberRun(t.ID)
	for _, dir := range []string{state, run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the folders of member %s: %w", name, err)
		}
	}
	return []mount.Mount{
		{Type: mount.TypeBind, Source: e.d.Members.Program, Target: member.Program, ReadOnly: true},
		{Type: mount.TypeBind, Source: state, Target: member.StateDir},
		{Type: mount.TypeBind, Source: run, Target: member.RunDir},
	}, nil
}

func (e *Executor) memberRun(task string) string { return filepath.Join(e.d.Members.Run, task) }

// dropMember removes what only a task's container needed. What is beside the
// volume stays with it.
func (e *Executor) dropMember(task string) error { return os.RemoveAll(e.memberRun(task)) }

// Locals are the members of sets whose helpers listen on this node.
func (e *Executor) Locals(context.Context) ([]stateful.Local, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []stateful.Local
	for task, l := range e.members {
		p := filepath.Join(e.memberRun(task), member.Socket)
		if _, err := os.Stat(p); err == nil {
			out = append(out, stateful.Local{Set: l.set, Member: l.name, Helper: member.NewClient(p, l.name)})
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

type localMember struct {
	set, name string
	vips      map[string]netip.Addr // of the set, by network
}

// Stand puts a member's container behind its set's names: that of the set leads to who
// leads, that with "-ro" to who follows.
func (e *Executor) Stand(set, name string, p stateful.Part) {
	e.mu.Lock()
	found := map[string]localMember{}
	for task, l := range e.members {
		if l.set == set && l.name == name {
			found[task] = l
		}
	}
	e.mu.Unlock()
	service := name[:max(strings.LastIndexByte(name, '-'), 0)]
	for task, l := range found {
		fronts := map[string][]directory.Front{}
		for network, vip := range l.vips {
			fronts[network] = []directory.Front{
				{Name: service, VIP: vip, Behind: p == stateful.Leads},
				{Name: service + "-ro", Behind: p == stateful.Follows},
			}
		}
		e.d.Mesh.Stand(task, fronts)
	}
}
