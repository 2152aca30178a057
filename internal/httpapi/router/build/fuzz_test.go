package build

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

// The options of a build are in its query, its credentials in a header.
func FuzzBuildOptions(f *testing.F) {
	f.Add(`t=a&t=b:c&buildargs={"A":"b","C":null}&labels={"a":"b"}&cachefrom=["x"]&ulimits=[{"Name":"nofile","Soft":1,"Hard":2},null]&shmsize=1&q=1&platform=linux/amd64`, `{"https://r/":{"username":"u"}}`)
	f.Add(`version=2&session=s&remote=client-session&outputs=[{"Type":"moby","Attrs":null}]&memory=1`, `null`)
	f.Add(`buildargs=[]&labels=x&networkmode=host&extrahosts=a:b&dockerfile=../x&remote=http://a`, ``)
	f.Fuzz(func(t *testing.T, query, auth string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		r := httptest.NewRequestWithContext(route.WithVersion(t.Context(), "1.50"), http.MethodPost, "/build?"+q.Encode(), nil)
		r.Header.Set(registryConfig, base64.URLEncoding.EncodeToString([]byte(auth)))
		if err := r.ParseForm(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := decode(r); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("class of %v", err)
		}
		if _, err := decodePrune(r); err != nil && !errdefs.IsInvalidArgument(err) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("class of %v", err)
		}
	})
}
