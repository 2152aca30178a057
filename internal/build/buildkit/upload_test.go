package buildkit

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestUploadAndBuildMeet in either order, and each gets what belongs to it.
func TestUploadAndBuildMeet(t *testing.T) {
	for _, first := range []string{"upload", "build"} {
		t.Run(first, func(t *testing.T) {
			var u uploads
			given := make(chan error, 1)
			give := func() { given <- u.give(t.Context(), "id", strings.NewReader("the context")) }
			go func() { _ = u.give(t.Context(), "another", strings.NewReader("not this")) }()
			if first == "upload" {
				go give()
				waitFor(t, &u, "id")
			} else {
				go func() { waitFor(t, &u, "id"); give() }()
			}
			r, err := u.take(t.Context(), "id")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || string(b) != "the context" {
				t.Errorf("got %q, %v", b, err)
			}
			if err := errors.Join(r.Close(), <-given); err != nil {
				t.Error(err)
			}
		})
	}
}

// waitFor waits until a request for the ID is there.
func waitFor(t *testing.T, u *uploads, id string) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		u.mu.Lock()
		there := u.waiting[id] != nil
		u.mu.Unlock()
		if there {
			return
		}
		select {
		case <-deadline:
			t.Error("nobody came")
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestUploadThatNobodyMeets(t *testing.T) {
	var u uploads
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := u.give(ctx, "id", strings.NewReader("x")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "id") {
		t.Errorf("upload: %v", err)
	}
	if _, err := u.take(ctx, "id"); !errdefs.IsUnavailable(err) {
		t.Errorf("build: %v", err)
	}
	if len(u.waiting) != 0 {
		t.Errorf("left behind: %v", u.waiting)
	}
}

// TestUploadEndsWithItsBuild: a build that takes no more ends the upload, and an
// upload that breaks off ends the build.
func TestUploadEndsWithItsBuild(t *testing.T) {
	var u uploads
	given := make(chan error, 1)
	go func() { given <- u.give(t.Context(), "id", neverEnding{}) }()
	r, err := u.take(t.Context(), "id")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	canceled := errors.New("build canceled")
	if err := r.CloseWithError(canceled); err != nil {
		t.Fatal(err)
	}
	if err := <-given; !errors.Is(err, canceled) {
		t.Errorf("upload: %v", err)
	}

	broken := errors.New("client is gone")
	go func() { given <- u.give(t.Context(), "id", io.MultiReader(strings.NewReader("some"), failing{broken})) }()
	if r, err = u.take(t.Context(), "id"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); !errors.Is(err, broken) || string(b) != "some" {
		t.Errorf("build got %q, %v", b, err)
	}
	if err := <-given; !errors.Is(err, broken) {
		t.Errorf("upload: %v", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
