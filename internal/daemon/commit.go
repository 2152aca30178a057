package daemon

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/image"
)

// committer makes an image of a container: the one verb that needs both domains.
type committer struct{ d *Daemon }

// pause holds a container still until resume is called. One that ends by
// itself meanwhile is still enough.
func (c committer) pause(ctx context.Context, id string) (resume func() error, err error) {
	err = c.d.containers.Pause(ctx, id)
	if errdefs.IsConflict(err) { // it ended, or somebody else paused it
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	return func() error {
		ctx := context.WithoutCancel(ctx)
		err := c.d.containers.Unpause(ctx, id)
		if errdefs.IsConflict(err) {
			if now, ierr := c.d.containers.Inspect(ctx, id, false); ierr == nil && !now.State.Paused {
				return nil
			}
		}
		return err
	}, nil
}

// Commit implements the container router's Committer.
func (c committer) Commit(ctx context.Context, o container.CommitOptions) (_ string, err error) {
	src, err := c.d.containers.Inspect(ctx, o.Container, false)
	if err != nil {
		return "", err
	}
	switch src.State.Status {
	case dockercontainer.StateRemoving, dockercontainer.StateDead:
		return "", fault.New(errdefs.ErrConflict, "You cannot commit container %s which is %s", src.ID, src.State.Status)
	default:
	}
	if o.Pause && src.State.Running && !src.State.Paused {
		resume, perr := c.pause(ctx, src.ID)
		if perr != nil {
			return "", perr
		}
		defer func() { err = errors.Join(err, resume()) }()
	}
	id, err := c.d.images.Commit(ctx, image.CommitRequest{
		Container: src.ID,
		Parent:    src.ImageManifestDescriptor,
		Base:      src.Config,
		Config:    o.Config,
		Changes:   o.Changes,
		Author:    o.Author,
		Comment:   o.Comment,
		Ref:       o.Ref,
	})
	if err != nil {
		return "", err
	}
	attrs := map[string]string{"comment": o.Comment, "imageID": id, "imageRef": familiar(o.Ref), "name": src.Name[1:], "image": src.Config.Image}
	for k, v := range src.Config.Labels {
		attrs[k] = v
	}
	c.d.events.Publish(events.Message{
		Type: events.ContainerEventType, Action: events.ActionCommit, Scope: "local",
		Actor: events.Actor{ID: src.ID, Attributes: attrs},
	})
	return id, nil
}

// familiar is a full reference as users write it.
func familiar(ref string) string {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		return reference.FamiliarString(named)
	}
	return ref
}
