package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/moby/swarmkit/v2/ca"
)

// SetsPath is where nodes speak about stateful sets.
const SetsPath = "/holdfast/v1/sets/"

// CallLimit bounds a request and its answer.
const CallLimit = 4 << 20

// Call posts in to a node as JSON and reads its answer into out, if that is not nil.
func (p *Peers) Call(ctx context.Context, m Member, path string, in, out any) (err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.host()+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := p.client(m.ID).Do(r) //nolint:contextcheck // the handshake has none
	if err != nil {
		return fmt.Errorf("ask node %s: %w", m.Addr, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, CallLimit))
	if err != nil {
		return fmt.Errorf("ask node %s: %w", m.Addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("node %s: %s", m.Addr, strings.TrimSpace(string(body)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("read the answer of node %s: %w", m.Addr, err)
	}
	return nil
}

// Caller is the node that makes a request, and whether it is a manager.
func Caller(r *http.Request) (node string, manager bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", false
	}
	s := r.TLS.PeerCertificates[0].Subject
	return s.CommonName, len(s.OrganizationalUnit) == 1 && s.OrganizationalUnit[0] == ca.ManagerRole
}
