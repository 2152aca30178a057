package container

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	domain "holdfast.dev/holdfast/internal/container"
)

// post sends a body as a client of API version 1.minor would. A failure that is
// the server's is the test's: these bodies come from outside.
func post(t *testing.T, f *fake, path, body string, minor uint8) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("/v1.%d%s", 24+int(minor)%31, path), strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler(f).ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError {
		t.Errorf("%s\n%s", body, w.Body)
	}
}

func FuzzCreateBody(f *testing.F) {
	f.Add(`{"Image":"busybox"}`, uint8(30))
	f.Fuzz(func(t *testing.T, body string, minor uint8) {
		post(t, &fake{create: func(o domain.CreateOptions) (container.CreateResponse, error) {
			if o.Config == nil || o.Config.Volumes == nil || o.HostConfig == nil || o.HostConfig.PortBindings == nil ||
				o.HostConfig.NetworkMode == "" || o.Networking == nil {
				t.Errorf("something is missing: %+v", o)
			}
			for name, ep := range o.Networking.EndpointsConfig {
				if ep == nil {
					t.Errorf("endpoint %s is nil", name)
				}
			}
			return container.CreateResponse{ID: "x"}, nil
		}}, "/containers/create?name=a&platform=linux", body, minor)
	})
}

func FuzzExecBody(f *testing.F) {
	f.Add(`{"Cmd":["sh","-c","true"],"AttachStdout":true,"Tty":true,"ConsoleSize":[24,80],"DetachKeys":"ctrl-p,ctrl-q","Env":["A=b"],"WorkingDir":"/","User":"1:2"}`, uint8(30))
	f.Add(`{"Cmd":"sh"}`, uint8(0))
	f.Add(`{"Cmd":[""],"ConsoleSize":[-1,2,3]}`, uint8(18))
	f.Fuzz(func(t *testing.T, body string, minor uint8) {
		post(t, &fake{execCreate: func(r container.ExecCreateRequest) (string, error) {
			if len(r.Cmd) == 0 {
				t.Error("an exec of nothing")
			}
			return "x", nil
		}}, "/containers/a/exec", body, minor)
	})
}

func FuzzUpdateBody(f *testing.F) {
	f.Add(`{"Memory":1048576,"MemorySwap":-1,"CpuShares":2,"PidsLimit":-1,"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"BlkioWeightDevice":[null]}`, uint8(30))
	f.Fuzz(func(t *testing.T, body string, minor uint8) {
		post(t, &fake{update: func(container.UpdateConfig) ([]string, error) { return nil, nil }}, "/containers/a/update", body, minor)
	})
}

func FuzzCommitBody(f *testing.F) {
	f.Add(`{"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","x"]}}`, "CMD [\"sh\"]\nENV a=b", uint8(30))
	f.Fuzz(func(t *testing.T, body, changes string, minor uint8) {
		f := &fake{commit: func(domain.CommitOptions) (string, error) { return "x", nil }}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("/v1.%d/commit", 24+int(minor)%31), strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		q := r.URL.Query()
		q.Set("container", "a")
		q.Set("changes", changes)
		r.URL.RawQuery = q.Encode()
		w := httptest.NewRecorder()
		handler(f).ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s\n%s", body, w.Body)
		}
	})
}
