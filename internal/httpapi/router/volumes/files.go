package volumes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Files are the files of volumes, as docker cp has those of containers. Names may
// be VOLUME@SNAPSHOT, for reading.
type Files interface {
	Stat(ctx context.Context, name, path string) (container.PathStat, error)
	// Read hands a file or directory to take, as a tar.
	Read(ctx context.Context, name, path string, take func(container.PathStat, io.Reader) error) error
	// Write unpacks a tar into a directory that is there.
	Write(ctx context.Context, name, path string, noOverwriteDirNonDir bool, content io.Reader) error
}

func filesArgs(r *http.Request) (name, path string, err error) {
	if path = r.FormValue("path"); path == "" {
		return "", "", fault.New(errdefs.ErrInvalidArgument, "bad parameter: path cannot be empty")
	}
	return route.Var(r, "name"), path, nil
}

func setStat(w http.ResponseWriter, st container.PathStat) error {
	b, err := json.Marshal(api.PathStat{Name: st.Name, Size: st.Size, Mode: uint32(st.Mode), Mtime: st.Mtime, LinkTarget: st.LinkTarget})
	if err != nil {
		return err
	}
	w.Header().Set(api.PathStatHeader, base64.StdEncoding.EncodeToString(b))
	return nil
}

func (rt *Router) statFile(w http.ResponseWriter, r *http.Request) error {
	name, path, err := filesArgs(r)
	if err != nil {
		return err
	}
	st, err := rt.files.Stat(r.Context(), name, path)
	if err != nil {
		return err
	}
	return setStat(w, st)
}

// readFiles sends a tar as it is read. What goes wrong after the first byte cuts
// the connection, so that nobody takes what there is for the whole.
func (rt *Router) readFiles(w http.ResponseWriter, r *http.Request) error {
	name, path, err := filesArgs(r)
	if err != nil {
		return err
	}
	out := &began{w: w}
	err = rt.files.Read(r.Context(), name, path, func(st container.PathStat, tar io.Reader) error {
		if err := setStat(w, st); err != nil {
			return err
		}
		_, err := io.Copy(out, tar)
		return err
	})
	if err != nil && out.yes {
		panic(http.ErrAbortHandler)
	}
	return err
}

func (rt *Router) writeFiles(w http.ResponseWriter, r *http.Request) error {
	name, path, err := filesArgs(r)
	if err != nil {
		return err
	}
	if err := rt.files.Write(r.Context(), name, path, route.Bool(r, "noOverwriteDirNonDir"), r.Body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
