package volume

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
)

// asFiles is who writes files to a volume from outside. It has no blank: like a
// container that may write, an export beside it is no one moment.
const asFiles = "copying-files"

// Files hands the directory of a volume, or to read that of VOLUME@SNAPSHOT, to do,
// which works with files in it. Nobody removes it meanwhile, and nobody makes a
// snapshot of a volume that is written to.
func (s *Service) Files(ctx context.Context, name string, write bool, do func(dir string) error) (err error) {
	volume, snapshot, of := strings.Cut(name, SnapshotSeparator)
	if !write {
		h, end, err := s.beginShared(ctx, volume, "copy of files")
		if err != nil {
			return err
		}
		defer end(&err)
		if !of {
			return do(h.dr.Path(h.rec.spec()))
		}
		i, err := s.acquireSnapshot(ctx, volume, snapshot, Request{Name: name, Container: h.as})
		if err != nil {
			return err
		}
		return errors.Join(do(i.Source), s.Release(context.WithoutCancel(ctx), i.Name, h.as))
	}
	if of {
		return fault.New(errdefs.ErrInvalidArgument, "%s is a snapshot and read-only: clone it", name)
	}
	h, end, err := s.begin(ctx, volume, asFiles)
	if err != nil {
		return err
	}
	defer end(&err)
	err = do(h.dr.Path(h.rec.spec()))
	// Also of one that failed in the middle: the volume is not what it was.
	s.publish(events.ActionExtractToDir, volume, map[string]string{"driver": h.rec.Driver})
	return err
}
