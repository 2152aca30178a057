package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitRequest asks for an image of a container's layer.
type CommitRequest struct {
	Container string              // ID, key of its writable layer
	Parent    *ocispec.Descriptor // manifest the container was made of; nil for none
	Base      *container.Config   // the container's
	Config    *container.Config   // wins over Base where set; may be nil
	Changes   []string            // Dockerfile instructions, applied to Config
	Author    string
	Comment   string
	Ref       string // empty: no name
}

// Commit makes an image of what a container changed, over the image it was
// made of, and returns its ID. The image is unpacked.
func (s *Service) Commit(ctx context.Context, r CommitRequest) (_ string, err error) {
	config, err := commitConfig(r)
	if err != nil {
		return "", err
	}
	ref, err := ParseRef(r.Ref, "")
	if err != nil {
		return "", err
	}
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return "", err
	}
	defer func() { release(err != nil) }()
	var parent Manifest
	if r.Parent != nil {
		if parent, err = s.best(held, *r.Parent, nil); err != nil {
			return "", fmt.Errorf("read the image of container %s: %w", r.Container, err)
		}
	}
	layer, changed, err := s.d.Layers.Diff(held, r.Container)
	if err != nil {
		return "", err
	}
	layers := make([]Layer, 0, len(parent.Layers)+1)
	for i, d := range parent.Layers {
		l := Layer{Descriptor: d}
		if ids := parent.Config.RootFS.DiffIDs; i < len(ids) {
			l.DiffID = ids[i]
		}
		layers = append(layers, l)
	}
	if changed {
		layers = append(layers, layer)
	}
	target, err := s.d.Content.Write(held, s.commitImage(r, parent, config, layer, changed), layers)
	if err != nil {
		return "", err
	}
	if err := s.name(held, ref, target); err != nil {
		return "", err
	}
	return target.Digest.String(), nil
}

// commitImage is the new image's config: the parent's and one more step.
func (s *Service) commitImage(
	r CommitRequest, parent Manifest, config dockerspec.DockerOCIImageConfig, layer Layer, changed bool,
) dockerspec.DockerOCIImage {
	now := s.d.Clock.Now().UTC()
	platform := parent.Config.Platform
	if platform.OS == "" || platform.Architecture == "" {
		platform = s.d.Platform
	}
	author := r.Author
	if author == "" {
		author = parent.Config.Author
	}
	step := ocispec.History{Created: &now, Author: author, Comment: r.Comment, EmptyLayer: !changed}
	if r.Base != nil {
		step.CreatedBy = strings.Join(r.Base.Cmd, " ")
	}
	diffs := slices.Clone(parent.Config.RootFS.DiffIDs)
	if changed {
		diffs = append(diffs, layer.DiffID)
	}
	if diffs == nil {
		diffs = []digest.Digest{}
	}
	return dockerspec.DockerOCIImage{
		Image: ocispec.Image{
			Platform: platform,
			Created:  &now,
			Author:   author,
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffs},
			History:  append(slices.Clone(parent.Config.History), step),
		},
		Config: config,
	}
}

func commitConfig(r CommitRequest) (dockerspec.DockerOCIImageConfig, error) {
	base := ConfigOf(r.Base)
	if r.Config == nil {
		err := ApplyChanges(&base, r.Changes)
		return base, err
	}
	c := ConfigOf(r.Config)
	if err := ApplyChanges(&c, r.Changes); err != nil {
		return c, err
	}
	mergeConfig(&c, base)
	return c, nil
}

// mergeConfig fills in what c leaves open.
func mergeConfig(c *dockerspec.DockerOCIImageConfig, base dockerspec.DockerOCIImageConfig) {
	if c.User == "" {
		c.User = base.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = base.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = base.StopSignal
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = base.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = base.Entrypoint
		}
	}
	if len(c.OnBuild) == 0 {
		c.OnBuild = base.OnBuild
	}
	if len(c.Shell) == 0 {
		c.Shell = base.Shell
	}
	if c.Healthcheck == nil {
		c.Healthcheck = base.Healthcheck
	}
	for _, kv := range base.Env {
		k, v, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(c.Env, func(have string) bool { return strings.HasPrefix(have+"=", k+"=") }) {
			c.Env = setEnv(c.Env, k, v)
		}
	}
	c.ExposedPorts = both(base.ExposedPorts, c.ExposedPorts)
	c.Volumes = both(base.Volumes, c.Volumes)
	c.Labels = both(base.Labels, c.Labels)
}

// both joins two maps; the second wins.
func both[V any](a, b map[string]V) map[string]V {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, b)
	return out
}
