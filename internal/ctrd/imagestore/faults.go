package imagestore

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// machine are errors that are this machine's and not the archive's.
var machine = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	context.Canceled, context.DeadlineExceeded, io.ErrClosedPipe,
}

// refuse gives an error met while reading an archive its class: the archive's
// fault (invalid argument) unless it plainly is not.
func refuse(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range machine {
		if errors.Is(err, m) {
			return err
		}
	}
	if errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown) || errors.Is(err, tar.ErrHeader) {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "bad archive")
	}
	return err
}
