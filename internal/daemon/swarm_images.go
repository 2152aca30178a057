package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/executor"
	"holdfast.dev/holdfast/internal/cluster/peers"
	distributionrouter "holdfast.dev/holdfast/internal/httpapi/router/distribution"
	imagerouter "holdfast.dev/holdfast/internal/httpapi/router/image"
	"holdfast.dev/holdfast/internal/image"
	ociregistry "holdfast.dev/holdfast/internal/registry"
)

// This file joins images with the swarm: other nodes read them here, and tasks
// get them from other nodes.

var (
	_ executor.Images            = (*taskImages)(nil)
	_ ociregistry.Source         = shownImages{}
	_ distributionrouter.Backend = swarmDistribution{}
	_ image.Source               = (*peers.Image)(nil)
	_ imagerouter.Backend        = swarmImages{}
)

// shownImages is what other nodes of the swarm may read of this one: any
// manifest or blob by its digest, and what names mean here.
type shownImages struct{ d *Daemon }

// Blob implements registry.Source.
func (s shownImages) Blob(ctx context.Context, _ string, d digest.Digest) (ociregistry.Blob, error) {
	return s.d.imageStore.Open(ctx, d)
}

// Manifest implements registry.Source.
func (s shownImages) Manifest(ctx context.Context, repo, ref string) (ocispec.Descriptor, error) {
	if d := digest.Digest(ref); d.Validate() == nil {
		return s.d.imageStore.Describe(ctx, d)
	}
	target, since, err := s.d.images.Named(ctx, repo+":"+ref)
	if err != nil {
		return target, err
	}
	return ocispec.Descriptor{
		MediaType: target.MediaType, Digest: target.Digest, Size: target.Size,
		Annotations: map[string]string{ociregistry.NamedAt: since.UTC().Format(time.RFC3339Nano)},
	}, nil
}

// taskImages brings images to tasks.
type taskImages struct {
	d       *Daemon
	pulling keylock.Locker // by reference: tasks of one service come together
}

// Has implements executor.Images.
func (p *taskImages) Has(ctx context.Context, ref string) (bool, error) {
	_, err := p.d.images.Runnable(ctx, ref, nil)
	if err == nil {
		return true, nil
	}
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return false, err
}

// Pull implements executor.Images: from other nodes of the swarm, else from the
// registry.
func (p *taskImages) Pull(ctx context.Context, ref, auth string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return err
	}
	named = reference.TagNameOnly(named)
	unlock, err := p.pulling.Lock(ctx, named.String())
	if err != nil {
		return err
	}
	defer unlock()
	if has, err := p.Has(ctx, ref); err != nil || has {
		return err // another task got it
	}
	perr := p.d.fromPeers(ctx, named, io.Discard)
	if perr == nil || ctx.Err() != nil {
		return perr
	}
	if !errdefs.IsNotFound(perr) {
		p.d.log.Warn("image not got from other nodes: the registry is asked", logkey.Image, ref, logkey.Err, perr)
	}
	o := image.PullOptions{}
	if a, err := authconfig.Decode(auth); err == nil && a != nil {
		o.Auth = *a
	}
	err = p.d.images.Pull(ctx, named, o, io.Discard)
	if err != nil && errdefs.IsNotFound(perr) {
		return fmt.Errorf("%w (%s)", err, perr.Error())
	}
	return err
}

// fromPeers gets an image from other nodes of the swarm.
func (d *Daemon) fromPeers(ctx context.Context, ref reference.Named, out io.Writer) error {
	found, err := d.swarm.FindImage(ctx, ref)
	if err != nil {
		return err
	}
	start := d.clock.Now()
	if err := d.images.Receive(ctx, ref, found.Target, found, out); err != nil {
		return err
	}
	d.log.Info("image got from other nodes", logkey.Image, ref.String(), logkey.Duration, d.clock.Now().Sub(start))
	return nil
}

// takeImage gets an image from other nodes because a manager says so.
func (d *Daemon) takeImage(ctx context.Context, name string, want digest.Digest) error {
	named, err := reference.ParseNamed(name)
	if err != nil {
		return err
	}
	ref, ok := named.(reference.NamedTagged)
	if !ok || !image.OfSwarm(ref) {
		return fmt.Errorf("%s is no name of an image of the swarm", name)
	}
	if now, _, err := d.images.Named(ctx, ref.String()); err == nil && now.Digest == want {
		return d.images.KeepForSwarm(ctx, ref.String())
	}
	exact, err := reference.WithDigest(reference.TrimNamed(ref), want)
	if err != nil {
		return err
	}
	found, err := d.swarm.FindImage(ctx, exact)
	if err != nil {
		return err
	}
	if err := d.images.Receive(ctx, ref, found.Target, found, io.Discard); err != nil {
		return err
	}
	return d.images.KeepForSwarm(ctx, ref.String())
}

// imageService is embedded by this name, because the type is called as its field.
type imageService = image.Service

// swarmImages gives the router the images. A push of what is called cluster/…
// goes to the swarm's nodes and to no registry.
type swarmImages struct {
	*imageService
	d *Daemon
}

// Push implements the image router's Backend.
func (s swarmImages) Push(ctx context.Context, ref reference.Named, o image.PushOptions, out io.Writer) error {
	if !image.OfSwarm(ref) || !s.d.swarm.Active() {
		return s.imageService.Push(ctx, ref, o, out)
	}
	list, err := s.Pushable(ctx, ref)
	if err != nil {
		return err
	}
	p := image.NewProgress(out)
	p.Message("", "The push refers to all nodes of the swarm")
	for _, r := range list {
		p.Message(reference.FamiliarString(r.Name), "Pushing")
		if err := s.KeepForSwarm(ctx, r.Name.String()); err != nil {
			return err
		}
		err := s.d.swarm.PushImage(ctx, r.Name.String(), r.Target.Digest, func(node string, err error) {
			if err != nil {
				p.Message(node, err.Error())
				return
			}
			p.Message(node, "Pushed")
		})
		if err != nil {
			return err
		}
		p.Message("", fmt.Sprintf("%s: digest: %s size: %d", r.Name.Tag(), r.Target.Digest, r.Target.Size))
	}
	return nil
}

// swarmDistribution tells clients what an image's name means: in a swarm, that of
// an image which no registry has, too. Clients put the digest that they get here
// into the services they make, so that all nodes run the same image.
type swarmDistribution struct{ d *Daemon }

// Distribution implements the distribution router's Backend.
func (s swarmDistribution) Distribution(ctx context.Context, ref string, r image.Remote) (registry.DistributionInspect, error) {
	if !s.d.swarm.Active() {
		return s.d.images.Distribution(ctx, ref, r)
	}
	here, made, herr := s.d.images.Here(ctx, ref)
	if herr == nil && made {
		return here, nil // the registry, if there is one, has something else of this name
	}
	out, err := s.d.images.Distribution(ctx, ref, r)
	if err == nil || ctx.Err() != nil {
		return out, err
	}
	if herr == nil {
		return here, nil // the registry is away, or does not let us in
	}
	there, perr := s.there(ctx, ref)
	if perr == nil {
		return there, nil
	}
	if !errdefs.IsNotFound(perr) {
		s.d.log.Debug("other nodes not asked for an image", logkey.Image, ref, logkey.Err, perr)
	}
	return out, err
}

// there asks the other nodes. What platforms the image is for is not looked at:
// no platform means any.
func (s swarmDistribution) there(ctx context.Context, ref string) (registry.DistributionInspect, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return registry.DistributionInspect{}, err
	}
	found, err := s.d.swarm.FindImage(ctx, reference.TagNameOnly(named))
	if err != nil {
		return registry.DistributionInspect{}, err
	}
	if found.Target.Digest == "" {
		return registry.DistributionInspect{}, errors.New("it has no digest")
	}
	return registry.DistributionInspect{Descriptor: found.Target}, nil
}
