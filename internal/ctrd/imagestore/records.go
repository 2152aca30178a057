package imagestore

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/image"
)

func record(i images.Image) image.Record {
	return image.Record{Name: i.Name, Target: i.Target, Labels: i.Labels, Created: i.CreatedAt, Updated: i.UpdatedAt}
}

// List implements image.Records.
func (s *Store) List(ctx context.Context) ([]image.Record, error) {
	all, err := s.d.Images.List(s.ns(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := make([]image.Record, len(all))
	for i, img := range all {
		out[i] = record(img)
	}
	return out, nil
}

// Get implements image.Records.
func (s *Store) Get(ctx context.Context, name string) (image.Record, error) {
	img, err := s.d.Images.Get(s.ns(ctx), name)
	if err != nil {
		return image.Record{}, fmt.Errorf("read image: %w", err)
	}
	return record(img), nil
}

// Put implements image.Records.
func (s *Store) Put(ctx context.Context, r image.Record) error {
	ctx = s.ns(ctx)
	img := images.Image{Name: r.Name, Target: r.Target, Labels: r.Labels}
	_, err := s.d.Images.Update(ctx, img, "target", "labels")
	if errdefs.IsNotFound(err) {
		_, err = s.d.Images.Create(ctx, img)
	}
	return err
}

// Delete implements image.Records.
func (s *Store) Delete(ctx context.Context, wait bool, names ...string) error {
	ctx = s.ns(ctx)
	for i, name := range names {
		var opts []images.DeleteOpt
		if wait && i == len(names)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := s.d.Images.Delete(ctx, name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete image %q: %w", name, err)
		}
	}
	if wait {
		s.forget()
	}
	return nil
}
