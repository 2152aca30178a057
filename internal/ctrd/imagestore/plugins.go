package imagestore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

// pluginConfig is the media type of a managed plugin's config:
// https://distribution.github.io/distribution/spec/manifest-v2-2/
const pluginConfig = "application/vnd.docker.plugin.v1+json"

// Plugins keeps the content of managed plugins in the same store as that of
// images, each under a lease of its own that does not end.
type Plugins struct{ s *Store }

// NewPlugins returns the plugins' side of a store.
func NewPlugins(s *Store) Plugins { return Plugins{s} }

// claim is what every lease of a plugin begins with.
const claim = "plugin-"

// for a plugin registries ask for another scope than for an image.
func pluginScope(ctx context.Context, ref, actions string) (context.Context, error) {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	return docker.WithScope(ctx, "repository(plugin):"+reference.Path(n)+":"+actions), nil
}

// manifest reads the manifest of a plugin in a registry.
func (p Plugins) manifest(ctx context.Context, ref string, r image.Remote) (d ocispec.Descriptor, m ocispec.Manifest, err error) {
	if d, err = p.s.Resolve(ctx, ref, r); err != nil {
		return d, m, err
	}
	other := fault.New(errdefs.ErrInvalidArgument, "did not find plugin config for specified reference %s", ref)
	if !images.IsManifestType(d.MediaType) {
		return d, m, other
	}
	b, err := p.s.Fetch(ctx, ref, d, r)
	if err != nil {
		return d, m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return d, m, fault.Wrap(errdefs.ErrInvalidArgument, err, "parse %s", d.Digest)
	}
	if m.Config.MediaType != pluginConfig {
		return d, m, other
	}
	return d, m, nil
}

// Look reads the config of a plugin in a registry.
func (p Plugins) Look(ctx context.Context, ref string, r image.Remote) ([]byte, error) {
	ctx, err := pluginScope(p.s.ns(ctx), ref, "pull")
	if err != nil {
		return nil, err
	}
	_, m, err := p.manifest(ctx, ref, r)
	if err != nil {
		return nil, err
	}
	return p.s.Fetch(ctx, ref, m.Config, r)
}

// Pull fetches a plugin and keeps it for a claim.
func (p Plugins) Pull(ctx context.Context, id, ref string, r image.Remote, out image.Progress) (ocispec.Descriptor, []byte, []ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, []byte, []ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, nil, nil, err
	}
	ctx, err := p.hold(ctx, id)
	if err != nil {
		return fail(err)
	}
	if ctx, err = pluginScope(ctx, ref, "pull"); err != nil {
		return fail(err)
	}
	target, m, err := p.manifest(ctx, ref, r)
	if err != nil {
		return fail(err)
	}
	if err := p.s.Pull(ctx, ref, target, p.s.d.Platform, r, out); err != nil {
		return fail(err)
	}
	config, err := p.s.readSmall(ctx, m.Config, jsonLimit, "a plugin's config")
	if err != nil {
		return fail(err)
	}
	out.Message("", "Digest: "+target.Digest.String())
	return target, config, m.Layers, nil
}

// Pack stores a root file system, a plain tar stream, and the config made for it.
func (p Plugins) Pack(ctx context.Context, id string, rootfs io.Reader, config func(diffID string) ([]byte, error)) (ocispec.Descriptor, []byte, []ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, []byte, []ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, nil, nil, err
	}
	ctx, err := p.hold(ctx, id)
	if err != nil {
		return fail(err)
	}
	l, err := p.s.Read(ctx, rootfs)
	if err != nil {
		return fail(err)
	}
	p.s.dropAll(ctx, stagedOf([]image.Layer{l}))
	l.Descriptor.MediaType = images.MediaTypeDockerSchema2LayerGzip // the only one that plugins have
	b, err := config(l.DiffID.String())
	if err != nil {
		return fail(err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest, Layers: []ocispec.Descriptor{l.Descriptor},
	}
	if m.Config, err = p.s.writeJSON(ctx, pluginConfig, json.RawMessage(b), nil); err != nil {
		return fail(err)
	}
	target, err := p.s.writeJSON(ctx, m.MediaType, m, childLabels(m.Config, m.Layers))
	if err != nil {
		return fail(err)
	}
	return target, b, m.Layers, nil
}

// Extract unpacks layers, bottom first, into a directory.
func (p Plugins) Extract(ctx context.Context, layers []ocispec.Descriptor, dir string) error {
	for _, l := range layers {
		if _, err := p.s.d.Applier.Apply(p.s.ns(ctx), l, []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}); err != nil {
			return refuse(fmt.Errorf("unpack layer %s: %w", l.Digest, err))
		}
	}
	return nil
}

// Push sends a plugin to a registry.
func (p Plugins) Push(ctx context.Context, ref string, target ocispec.Descriptor, r image.Remote, out image.Progress) error {
	ctx, err := pluginScope(ctx, ref, "pull,push")
	if err != nil {
		return err
	}
	return p.s.Push(ctx, ref, target, r, out)
}

// hold returns a context in which everything written is kept for a claim.
func (p Plugins) hold(ctx context.Context, id string) (context.Context, error) {
	ctx = p.s.ns(ctx)
	if _, err := p.s.d.Leases.Create(ctx, leases.WithID(id)); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create lease: %w", err)
	}
	return leases.WithLease(ctx, id), nil
}

// Drop gives a claim up.
func (p Plugins) Drop(ctx context.Context, id string) error {
	if err := p.s.d.Leases.Delete(p.s.ns(ctx), leases.Lease{ID: id}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

// Claims lists what is kept for plugins.
func (p Plugins) Claims(ctx context.Context) ([]string, error) {
	all, err := p.s.d.Leases.List(p.s.ns(ctx))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var out []string
	for _, l := range all {
		if strings.HasPrefix(l.ID, claim) {
			out = append(out, l.ID)
		}
	}
	return out, nil
}
