package client

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := New(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	t.Cleanup(c.Close)
	return c
}

func TestOutdatedImages(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != api.PathOutdated {
			t.Errorf("asked %s %s", r.Method, r.URL.Path)
		}
		_, _ = w.Write([]byte(`[{"id":"sha256:a","names":["app:1"],"base":"debian:12"}]`))
	})
	got, err := c.OutdatedImages(t.Context())
	if err != nil || len(got) != 1 || got[0].Names[0] != "app:1" || got[0].Base != "debian:12" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestErrorsHaveTheDaemonsTextAndClass(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		is     func(error) bool
		text   string
	}{
		{http.StatusConflict, `{"message":"volume is in use"}`, errdefs.IsConflict, "volume is in use"},
		{http.StatusNotFound, `{"message":"no such volume"}`, errdefs.IsNotFound, "no such volume"},
		{http.StatusNotFound, `{"message":"page not found"}`, errdefs.IsNotImplemented, "the daemon does not serve this: it is not Holdfast's, or an older one: not implemented"},
		{http.StatusInternalServerError, "oops", errdefs.IsInternal, "oops"},
	} {
		cl := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		})
		_, err := cl.OutdatedImages(t.Context())
		if err == nil || !c.is(err) || err.Error() != c.text {
			t.Errorf("%d %s: got %v", c.status, c.body, err)
		}
	}
}
