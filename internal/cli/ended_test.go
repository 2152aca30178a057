package cli

import (
	"context"
	"errors"
	"syscall"
	"testing"

	dockercli "github.com/docker/cli/cli"
)

func TestACommandCutShortEndsWithItsSignal(t *testing.T) {
	cut, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{signal: syscall.SIGINT})
	closed := errors.New("http: read on closed response body")
	for _, c := range []struct {
		what string
		ctx  context.Context
		err  error
		code int
		text string
	}{
		{"an error on the way out", cut, closed, 130, ""},
		{"the same without a signal", t.Context(), closed, 1, closed.Error()},
		{"a container's exit code", cut, dockercli.StatusError{StatusCode: 7}, 7, dockercli.StatusError{StatusCode: 7}.Error()},
		{"a command that finished all the same", cut, nil, 0, ""},
	} {
		err := ended(c.ctx, c.err)
		if code := exitCode(err); code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.what, code, c.code)
		}
		if text := message(err); text != c.text {
			t.Errorf("%s: says %q, want %q", c.what, text, c.text)
		}
	}
}
