package route

import (
	"io"
	"net/http"
	"strings"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// Messages is a reply of JSON messages. Until the first one the request can
// still fail with a status; after it an error is a message, too.
type Messages struct {
	w       http.ResponseWriter
	fail    func(io.Writer, error)
	started bool

	// Type is the reply's content type; Docker's is application/json.
	Type string
}

// NewMessages returns a reply that fail ends where it has begun.
func NewMessages(w http.ResponseWriter, fail func(io.Writer, error)) *Messages {
	return &Messages{w: w, fail: fail, Type: "application/json"}
}

// Write implements io.Writer.
func (m *Messages) Write(p []byte) (int, error) {
	if !m.started {
		m.started = true
		m.w.Header().Set("Content-Type", m.Type)
	}
	return FlushWriter{W: m.w}.Write(p)
}

// End returns the error of a reply not begun, and writes that of a begun one.
func (m *Messages) End(err error) error {
	if err == nil && !m.started {
		m.w.Header().Set("Content-Type", m.Type)
		m.w.WriteHeader(http.StatusOK)
		return nil
	}
	if err == nil || !m.started {
		return err
	}
	m.fail(m, err)
	return nil
}

// Registry reads a client's credentials for a registry, and the extra headers that
// it wants sent there. Unreadable credentials count as none, as in Docker.
func Registry(r *http.Request) (registry.AuthConfig, map[string][]string) {
	var auth registry.AuthConfig
	if a, err := authconfig.Decode(r.Header.Get(registry.AuthHeader)); err == nil && a != nil {
		auth = *a
	}
	headers := map[string][]string{}
	for k, v := range r.Header {
		if strings.HasPrefix(k, "X-Meta-") {
			headers[k] = v
		}
	}
	return auth, headers
}
