package daemon

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"holdfast.dev/holdfast/internal/cluster"
	"holdfast.dev/holdfast/internal/cluster/executor"
	"holdfast.dev/holdfast/internal/container"
	swarmrouter "holdfast.dev/holdfast/internal/httpapi/router/swarm"
	"holdfast.dev/holdfast/internal/registry"
	"holdfast.dev/holdfast/internal/stateful/member"
)

// This file joins the swarm with the domains that run its tasks.

var _ swarmrouter.Backend = swarmBackend{}

func (d *Daemon) startSwarm(ctx context.Context) error {
	run := filepath.Join(d.cfg.ExecRoot, "swarm")
	d.swarm = cluster.New(cluster.Deps{
		Clock:       d.clock,
		Log:         d.log,
		Dir:         filepath.Join(d.cfg.Root, "swarm"),
		RunDir:      run,
		Hostname:    d.facts.Hostname,
		Events:      d.events,
		OwnLink:     ownLink,
		Images:      registry.NewHandler(shownImages{d}, registry.Options{Log: d.log, Domains: true}),
		TakeImage:   d.takeImage,
		NewName:     func() (string, error) { return container.RandomName(rand.Reader) },
		MachineTime: member.Now,
		Mesh:        d.mesh,
		Attached:    d.attach,
		Executor: executor.New(executor.Deps{
			Log:        d.log,
			Containers: d.containers,
			Images:     &taskImages{d: d},
			Events:     d.events,
			Mesh:       d.mesh,
			Attached:   d.attach,
			Facts:      d.nodeFacts,
			SecretsDir: filepath.Join(run, "tasks"),
			Members: executor.MemberPaths{
				Program: d.paths.Member, State: filepath.Join(d.cfg.Root, "swarm", "members"), Run: filepath.Join(run, "members"),
			},
		}),
	})
	d.onStop(d.swarm.Close)
	if err := d.swarm.Start(ctx); err != nil {
		return err
	}
	d.attach.Open(d.swarm.Allocator)
	return nil
}

// ownLink tells the interfaces that engines make from those of the machine.
func ownLink(name string) bool {
	return slices.ContainsFunc([]string{"hf", "br-", "vx-", "veth", "docker"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (d *Daemon) nodeFacts() executor.Facts {
	return executor.Facts{
		Hostname:      d.facts.Hostname,
		Arch:          d.facts.Arch,
		OS:            runtime.GOOS,
		EngineVersion: d.version.Version,
		CPUs:          d.facts.CPUs,
		Memory:        d.facts.Memory,
		Labels:        d.labels(),
		Volume:        d.volumes.Drivers(),
		Network:       networkDrivers(),
		Log:           logDrivers(),
	}
}

// swarmService is embedded by this name, because the service has a method Service.
type swarmService = cluster.Service

// swarmBackend gives the router the swarm. Requests and replies have the same
// fields on both sides; only their types differ.
type swarmBackend struct{ *swarmService }

// Update implements the swarm router's Backend.
func (b swarmBackend) Update(ctx context.Context, version uint64, spec swarm.Spec, r swarmrouter.Rotation) error {
	return b.swarmService.Update(ctx, version, spec, cluster.Rotation(r))
}

// UpdateService implements the swarm router's Backend.
func (b swarmBackend) UpdateService(ctx context.Context, ref string, u swarmrouter.ServiceUpdate) (swarm.ServiceUpdateResponse, error) {
	return b.swarmService.UpdateService(ctx, ref, cluster.ServiceUpdate(u))
}

// Logs implements the swarm router's Backend.
func (b swarmBackend) Logs(
	ctx context.Context, o swarmrouter.LogsOptions, started func(tty bool) error, emit func(swarmrouter.LogLine) error,
) error {
	find, ref := b.ServiceLogs, o.Service
	if o.Task != "" {
		find, ref = b.TaskLogs, o.Task
	}
	src, err := find(ctx, ref)
	if err != nil {
		return err
	}
	if err := started(src.TTY); err != nil {
		return err
	}
	return b.swarmService.Logs(ctx, src, cluster.LogsOptions{
		Stdout: o.Stdout, Stderr: o.Stderr, Follow: o.Follow, Since: o.Since, Tail: o.Tail,
	}, func(l cluster.LogLine) error { return emit(swarmrouter.LogLine(l)) })
}
