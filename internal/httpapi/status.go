package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Status maps the class of an error to the status that Docker gives it. The
// outermost class of the chain counts.
func Status(err error) int {
	err = errdefs.Resolve(err)
	switch {
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	}
	// Internal, data loss, exhausted, canceled, deadline and all unknown: Docker
	// says 500 to each.
	return http.StatusInternalServerError
}

// plain reports whether the error asks to be told as text.
func plain(err error) bool {
	return errors.As(err, new(route.PlainError))
}

// canceled reports whether the request was given up.
func canceled(ctx context.Context) bool {
	return errors.Is(ctx.Err(), context.Canceled)
}
