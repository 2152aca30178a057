package imagestore

import (
	"context"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

var errLater = fault.New(errdefs.ErrNotImplemented, "registries are not served yet")

func (s *Store) Resolve(ctx context.Context, ref string, r image.Remote) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errLater
}
func (s *Store) Pull(ctx context.Context, ref string, target ocispec.Descriptor, platform ocispec.Platform, r image.Remote, p image.Progress) error {
	return errLater
}
func (s *Store) Push(ctx context.Context, ref string, target ocispec.Descriptor, r image.Remote, p image.Progress) error {
	return errLater
}
func (s *Store) Tags(ctx context.Context, repository string, r image.Remote) ([]string, error) {
	return nil, errLater
}
func (s *Store) Fetch(ctx context.Context, ref string, d ocispec.Descriptor, r image.Remote) ([]byte, error) {
	return nil, errLater
}
func (s *Store) Login(ctx context.Context, a image.Auth) (string, error) { return "", errLater }
