package daemon

import (
	"context"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/volume"
)

// This file joins the domains' ports with other domains. Domains don't know
// each other, so where one's port is filled by another, the types are
// converted here; nothing else happens.

// containerImages fills container.Images.
type containerImages struct{ s *image.Service }

func (p containerImages) Resolve(ctx context.Context, ref string, want *ocispec.Platform) (container.ImageInfo, error) {
	r, err := p.s.Runnable(ctx, ref, want)
	if err != nil {
		return container.ImageInfo{}, err
	}
	if r.Manifest.Platform == nil {
		r.Manifest.Platform = &r.Platform // a lone manifest carries none; the API tells it
	}
	out := container.ImageInfo{ID: r.ID, Name: r.Name, ChainID: r.ChainID, Config: r.Config, Manifest: &r.Manifest}
	if r.Platform.Architecture != "" && !platforms.Default().Match(r.Platform) {
		out.Foreign = platforms.FormatAll(r.Platform)
	}
	return out, nil
}

func (p containerImages) Claim(ctx context.Context, ref string) (func(), error) {
	return p.s.Claim(ctx, ref)
}

func (p containerImages) Family(ctx context.Context, ref string) ([]string, error) {
	return p.s.Family(ctx, ref)
}

// imageUsers fills image.Users. Containers start after images, so that the
// service is looked up late.
type imageUsers struct{ d *Daemon }

func (p imageUsers) Users(context.Context) []image.User {
	if p.d.containers == nil {
		return nil
	}
	users := p.d.containers.ImageUsers()
	out := make([]image.User, len(users))
	for i, u := range users {
		out[i] = image.User(u)
	}
	return out
}

// containerVolumes fills container.Volumes.
type containerVolumes struct {
	*volume.Service
	ledger *usage.Ledger
}

// Populate tells the ledger that there is something in the volume now.
func (p containerVolumes) Populate(ctx context.Context, name, container, src, sub string) error {
	defer p.ledger.Changed(usage.Key{Kind: usage.Volume, ID: name})
	return p.Service.Populate(ctx, name, container, src, sub)
}

func (p containerVolumes) Acquire(ctx context.Context, r container.VolumeRequest) (container.VolumeInfo, error) {
	i, err := p.Service.Acquire(ctx, volume.Request(r))
	return container.VolumeInfo(i), err
}

var (
	_ container.Images  = containerImages{}
	_ container.Volumes = containerVolumes{}
	_ image.Users       = imageUsers{}
)
