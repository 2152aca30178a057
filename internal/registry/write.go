package registry

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	errNoUpload  = problem(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
	errBadRange  = problem(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the chunk does not begin where the upload ends")
	errBadDigest = problem(http.StatusBadRequest, "DIGEST_INVALID", "the content is not what its digest says")
)

// change serves what changes the registry.
func (h *Handler) change(w http.ResponseWriter, r *http.Request, req request, q url.Values) error {
	upload := req.kind == "blobs/uploads"
	switch {
	case upload && req.ref == "" && r.Method == http.MethodPost:
		return h.begin(w, r, req, q)
	case upload && req.ref != "" && r.Method == http.MethodGet:
		n, err := h.write.Uploaded(r.Context(), req.repo, req.ref)
		if err != nil {
			return uploadError(err)
		}
		uploadHeaders(w, req, req.ref, n)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case upload && req.ref != "" && r.Method == http.MethodPatch:
		n, err := h.chunk(r, req)
		if err != nil {
			return err
		}
		uploadHeaders(w, req, req.ref, n)
		w.WriteHeader(http.StatusAccepted)
		return nil
	case upload && req.ref != "" && r.Method == http.MethodPut:
		d, err := digestOf(q.Get("digest"))
		if err != nil {
			return err
		}
		if _, err := h.chunk(r, req); err != nil {
			return err
		}
		return h.finish(w, r, req, req.ref, d)
	case upload && req.ref != "" && r.Method == http.MethodDelete:
		if err := h.write.Cancel(r.Context(), req.repo, req.ref); err != nil {
			return uploadError(err)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	case req.kind == "manifests" && r.Method == http.MethodPut:
		return h.putManifest(w, r, req, q)
	case req.kind == "manifests" && r.Method == http.MethodDelete:
		return h.deleteManifest(w, r, req)
	case req.kind == "blobs" && r.Method == http.MethodDelete:
		err := h.write.DeleteBlob(r.Context(), req.repo, digest.Digest(req.ref))
		if errdefs.IsNotFound(err) {
			return problem(http.StatusNotFound, "BLOB_UNKNOWN", "the blob is not known to the registry")
		}
		if err == nil {
			w.WriteHeader(http.StatusAccepted)
		}
		return err
	}
	return errMethod
}

func uploadError(err error) error {
	switch {
	case errdefs.IsNotFound(err):
		return errNoUpload
	case errdefs.IsOutOfRange(err):
		return errBadRange
	}
	return err
}

func digestOf(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if d.Validate() != nil {
		return "", problem(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
	}
	return d, nil
}

func uploadHeaders(w http.ResponseWriter, req request, id string, n int64) {
	w.Header().Set("Location", "/v2/"+req.name+"/blobs/uploads/"+id)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(n-1, 0), 10))
	w.Header().Set("Docker-Upload-UUID", id)
}

// begin opens an upload, or spares it where the blob is known or comes along.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, req request, q url.Values) error {
	if q.Has("mount") {
		d, err := digestOf(q.Get("mount"))
		if err != nil {
			return err
		}
		from := q.Get("from")
		if from != "" && (len(from) > nameLimit || !repoPattern.MatchString(from)) {
			return problem(http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
		}
		err = h.write.Mount(r.Context(), req.repo, from, d)
		if err == nil {
			return created(w, req, "blobs", d)
		}
		if !errdefs.IsNotFound(err) {
			return err
		} // else it has to be uploaded
	}
	whole := digest.Digest("")
	if q.Has("digest") {
		var err error
		if whole, err = digestOf(q.Get("digest")); err != nil {
			return err
		}
	}
	id, err := h.write.Begin(r.Context(), req.repo)
	if err != nil {
		return err
	}
	if whole == "" {
		uploadHeaders(w, req, id, 0)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	if _, err := h.write.Append(r.Context(), req.repo, id, 0, r.Body); err != nil {
		return errors.Join(bodyError(err), h.write.Cancel(r.Context(), req.repo, id))
	}
	return h.finish(w, r, req, id, whole)
}

func created(w http.ResponseWriter, req request, kind string, d digest.Digest) error {
	w.Header().Set("Location", "/v2/"+req.name+"/"+kind+"/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// chunk adds a request's body to an upload.
func (h *Handler) chunk(r *http.Request, req request) (int64, error) {
	offset := int64(-1)
	body := io.Reader(r.Body)
	if s := r.Header.Get("Content-Range"); s != "" {
		from, to, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "-")
		to, _, _ = strings.Cut(to, "/")
		a, aerr := strconv.ParseInt(from, 10, 64)
		b, berr := strconv.ParseInt(to, 10, 64)
		if !ok || aerr != nil || berr != nil || a < 0 || b < a || r.ContentLength >= 0 && b-a+1 != r.ContentLength {
			return 0, errBadRange
		}
		offset, body = a, io.LimitReader(body, b-a+1)
	}
	n, err := h.write.Append(r.Context(), req.repo, req.ref, offset, body)
	if err != nil {
		return n, bodyError(uploadError(err))
	}
	return n, nil
}

// bodyError is what a body that breaks off gets, should anybody still read it.
func bodyError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return problem(http.StatusBadRequest, "SIZE_INVALID", "the content breaks off")
	}
	return err
}

func (h *Handler) finish(w http.ResponseWriter, r *http.Request, req request, id string, d digest.Digest) error {
	err := h.write.Finish(r.Context(), req.repo, id, d)
	switch {
	case errdefs.IsInvalidArgument(err):
		return errBadDigest
	case err != nil:
		return uploadError(err)
	}
	return created(w, req, "blobs", d)
}

func (h *Handler) putManifest(w http.ResponseWriter, r *http.Request, req request, q url.Values) error {
	if r.ContentLength > manifestLimit {
		return problem(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "the manifest is too long")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, manifestLimit+1))
	if err != nil {
		return bodyError(err)
	}
	if len(body) > manifestLimit {
		return problem(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "the manifest is too long")
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(body), Size: int64(len(body))}
	tag := ""
	want := req.ref
	if !isDigest(req.ref) {
		tag, want = req.ref, q.Get("digest")
	}
	if want != "" {
		if d.Digest, err = digestOf(want); err != nil {
			return err
		}
		if d.Digest.Algorithm().FromBytes(body) != d.Digest {
			return errBadDigest
		}
	}
	d.MediaType, _, _ = strings.Cut(r.Header.Get("Content-Type"), ";")
	m, err := parseManifest(d.MediaType, body)
	if err != nil {
		return err
	}
	d.MediaType, d.ArtifactType, d.Annotations = m.mediaType, m.artifactType, m.annotations
	err = h.write.Put(r.Context(), req.repo, tag, d, m, body)
	if errdefs.IsNotFound(err) {
		return problem(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", err.Error())
	}
	if err != nil {
		return err
	}
	if m.subject != "" {
		w.Header().Set("OCI-Subject", m.subject.String())
	}
	return created(w, req, "manifests", d.Digest)
}

func (h *Handler) deleteManifest(w http.ResponseWriter, r *http.Request, req request) error {
	var err error
	if isDigest(req.ref) {
		err = h.write.DeleteManifest(r.Context(), req.repo, digest.Digest(req.ref))
	} else {
		err = h.write.DeleteTag(r.Context(), req.repo, req.ref)
	}
	if errdefs.IsNotFound(err) {
		return problem(http.StatusNotFound, "MANIFEST_UNKNOWN", "the manifest is not known to the registry")
	}
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}
