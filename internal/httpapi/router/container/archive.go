package container

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

const pathStatHeader = "X-Docker-Container-Path-Stat"

// archiveArgs reads the container's name and the path inside it.
func archiveArgs(r *http.Request) (name, path string, err error) {
	if name = route.Var(r, "name"); name == "" {
		return "", "", invalid("bad parameter: name cannot be empty")
	}
	if path = r.Form.Get("path"); path == "" {
		return "", "", invalid("bad parameter: path cannot be empty")
	}
	return name, path, nil
}

func setStat(h http.Header, st container.PathStat) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	h.Set(pathStatHeader, base64.StdEncoding.EncodeToString(b))
	return nil
}

func (rt *Router) headArchive(w http.ResponseWriter, r *http.Request) error {
	name, path, err := archiveArgs(r)
	if err != nil {
		return err
	}
	st, err := rt.containers.StatPath(r.Context(), name, path)
	if err != nil {
		return err
	}
	return setStat(w.Header(), st)
}

func (rt *Router) getArchive(w http.ResponseWriter, r *http.Request) error {
	name, path, err := archiveArgs(r)
	if err != nil {
		return err
	}
	tar, st, err := rt.containers.ArchivePath(r.Context(), name, path)
	if err != nil {
		return err
	}
	defer tar.Close()
	if err := setStat(w.Header(), st); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if !acceptsGzip(r) {
		_, err = io.Copy(w, tar)
		return err
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	if _, err := io.Copy(z, tar); err != nil {
		return err // leaves the gzip stream without its end, so that the client notices
	}
	return z.Close()
}

// acceptsGzip reads the Accept-Encoding header.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, params, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		_, q, ok := strings.Cut(strings.TrimSpace(params), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !ok || (err == nil && weight > 0)
	}
	return false
}

func (rt *Router) putArchive(w http.ResponseWriter, r *http.Request) error {
	name, path, err := archiveArgs(r)
	if err != nil {
		return err
	}
	err = rt.containers.ExtractToDir(r.Context(), name, path,
		route.Bool(r, "noOverwriteDirNonDir"), route.Bool(r, "copyUIDGID"), r.Body)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// export sends the whole file system. The reply begins with the first byte, so
// that an earlier error still gets its status.
func (rt *Router) export(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	return rt.containers.Export(r.Context(), name(r), w)
}
