package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// request is one plain API call; body may be nil, a string, bytes, a reader or
// something to be sent as JSON.
func (d *Daemon) request(method, path string, body any) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	r, kind, err := bodyReader(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, r)
	if err != nil {
		return 0, nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialAPI(ctx) },
	}}
	resp, err := hc.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

func bodyReader(body any) (io.Reader, string, error) {
	switch b := body.(type) {
	case nil:
		return nil, "", nil
	case io.Reader:
		return b, "application/x-tar", nil
	case string:
		return bytes.NewReader([]byte(b)), "application/json", nil
	case []byte:
		return bytes.NewReader(b), "application/x-tar", nil
	default:
		enc, err := json.Marshal(b)
		return bytes.NewReader(enc), "application/json", err
	}
}

// API makes one API call and returns status and body, whatever they are. A
// string body is sent as it is, so that it can be malformed.
func (d *Daemon) API(method, path string, body any) (int, []byte) {
	d.t.Helper()
	code, b, err := d.request(method, path, body)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return code, b
}

// TryAPI is API for requests that the daemon may cut off.
func (d *Daemon) TryAPI(method, path string, body any) (code int, reply []byte, err error) {
	return d.request(method, path, body)
}

// GetJSON fetches path, which must answer 200, into v.
func (d *Daemon) GetJSON(path string, v any) {
	d.t.Helper()
	if err := d.getJSON(path, v); err != nil {
		d.t.Fatalf("%v", err)
	}
}

func (d *Daemon) getJSON(path string, v any) error {
	code, b, err := d.request(http.MethodGet, path, nil)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	if code != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", path, code, b)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("GET %s: %w: %s", path, err, b)
	}
	return nil
}

// Eventually is Poll for this daemon's test.
func (d *Daemon) Eventually(within time.Duration, what string, cond func() (ok bool, state string)) {
	d.t.Helper()
	Poll(d.t, within, what, cond)
}

// WaitState polls a container until its State.Status is as wanted.
func (d *Daemon) WaitState(name, status string) {
	d.t.Helper()
	Poll(d.t, 30*time.Second, "container "+name+" "+status, func() (bool, string) {
		var c struct{ State struct{ Status string } }
		if err := d.getJSON("/containers/"+name+"/json", &c); err != nil {
			return false, err.Error()
		}
		return c.State.Status == status, c.State.Status
	})
}
