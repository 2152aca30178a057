package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
)

// A mounted image is a writable layer of its own over the image, which nothing is
// ever written to: it keeps the image's layers as long as the container is there,
// whatever becomes of the image's name.

// imageLayer names the layer of a container's n-th mount. It looks like the ID of
// a container, as all names of layers do.
func imageLayer(id string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/image/%d", id, n))
	return hex.EncodeToString(sum[:])
}

// imageLayers lists the layers of all images that a container mounts.
func imageLayers(r *Record) []string {
	var out []string
	for i, m := range r.Mounts {
		if m.Type == mount.TypeImage {
			out = append(out, imageLayer(r.ID, i))
		}
	}
	return out
}

// resolveImages finds the images that the planned mounts name. One that is
// missing is said to be invalid, not missing: clients would go and pull the
// container's own.
func (s *Service) resolveImages(ctx context.Context, mounts []Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if m.Type != mount.TypeImage || m.Image != "" { // another container's is resolved
			continue
		}
		img, err := s.d.Images.Resolve(ctx, m.Source, nil)
		if errdefs.IsNotFound(err) {
			return invalid("invalid mount config for type %q: %s", m.Type, err)
		}
		if err != nil {
			return err
		}
		m.Image, m.ImageParent = img.ID, img.ChainID
	}
	return nil
}

// claimImages keeps the images of the mounts from being removed until release.
func (s *Service) claimImages(ctx context.Context, mounts []mount.Mount) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	for _, m := range mounts {
		if m.Type != mount.TypeImage || m.Source == "" {
			continue
		}
		r, err := s.d.Images.Claim(ctx, m.Source)
		if err != nil {
			release()
			if errdefs.IsNotFound(err) {
				return nil, invalid("invalid mount config for type %q: %s", m.Type, err)
			}
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}

// prepareImages makes the layers of the mounted images.
func (s *Service) prepareImages(ctx context.Context, r *Record) error {
	for i, m := range r.Mounts {
		if m.Type != mount.TypeImage {
			continue
		}
		if err := s.d.Rootfs.Prepare(ctx, imageLayer(r.ID, i), m.ImageParent); err != nil {
			return err
		}
	}
	return nil
}

// mountImage mounts one image for a container that starts.
func (s *Service) mountImage(ctx context.Context, r *Record, n int) (path string, release func(), err error) {
	layer, err := s.d.Rootfs.Mount(ctx, imageLayer(r.ID, n))
	if err != nil {
		return "", nil, err
	}
	if sub := r.Mounts[n].Subpath; sub != "" {
		return s.holdSubpath(r.ID, n, layer.Merged, sub)
	}
	return layer.Merged, nil, nil
}
