package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/image"
)

const (
	// excuseLimit is how much of an error page is told.
	excuseLimit = 4 << 10
	// importStep is how often the progress of a download is told, in bytes.
	importStep = 512 << 10
)

// search serves `docker search`.
func (rt *Router) search(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	o := domain.SearchOptions{Remote: remote(r), Term: r.FormValue("term"), Filters: filters}
	if l := r.FormValue("limit"); l != "" {
		if o.Limit, err = strconv.Atoi(l); err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "invalid limit specified: %s", err)
		}
		if o.Limit < 0 {
			return fault.New(errdefs.ErrInvalidArgument, "invalid limit specified: %d", o.Limit)
		}
	}
	out, err := rt.b.Search(r.Context(), o)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

// download opens what `docker import URL` names. A name without a scheme is
// one of http.
func download(ctx context.Context, src string) (*http.Response, error) {
	if !strings.Contains(src, "://") {
		src = "http://" + src
	}
	u, err := url.Parse(src)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.New(errdefs.ErrInvalidArgument, "unsupported protocol scheme %q of %s", u.Scheme, u.Redacted())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if dns := (*net.DNSError)(nil); errors.As(err, &dns) && !dns.IsTimeout {
			return nil, fault.New(errdefs.ErrNotFound, "%s", err)
		}
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, excuseLimit))
	if err != nil {
		body = []byte("error reading body")
	}
	class := map[int]error{
		http.StatusBadRequest:   errdefs.ErrInvalidArgument,
		http.StatusUnauthorized: errdefs.ErrUnauthenticated,
		http.StatusForbidden:    errdefs.ErrPermissionDenied,
		http.StatusNotFound:     errdefs.ErrNotFound,
	}[resp.StatusCode]
	if class == nil {
		class = errdefs.ErrUnknown
	}
	return nil, fault.New(class, "failed to GET %s with status %s: %s", u.Redacted(), resp.Status, bytes.TrimSpace(body))
}

// told is a download whose progress is told.
type told struct {
	io.Reader
	p           domain.Progress
	n, shown, t int64
}

func (r *told) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n += int64(n)
	if r.n-r.shown >= importStep || err != nil && r.n > r.shown {
		r.shown = r.n
		r.p.Update("", "Importing", r.n, r.t)
	}
	return n, err
}
