// Command ryuk stands in for the image of that name, which testcontainers uses
// to remove what a test that died left behind. Clients connect to port 8080 and
// send filters, a line each ("label=a=b&label=c=d"), every one answered with
// "ACK". Once no client has been there for RYUK_RECONNECTION_TIMEOUT, all that
// the filters match is removed by the engine at /var/run/docker.sock.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func timeout(name string, def time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return d
	}
	return def
}

// reaper is the filters that came, and who is there.
type reaper struct {
	mu      sync.Mutex            // guards filters
	filters map[string]url.Values // by the line they came in

	came, left chan struct{}
}

func run() error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		return err
	}
	r := &reaper{filters: map[string]url.Values{}, came: make(chan struct{}), left: make(chan struct{})}
	go r.accept(l)
	fmt.Println("Started")
	patience := timeout("RYUK_CONNECTION_TIMEOUT", time.Minute)
	for clients := 0; ; {
		var alone <-chan time.Time // never, while somebody is there
		if clients == 0 {
			alone = time.After(patience)
		}
		select {
		case <-r.came:
			clients++
		case <-r.left:
			clients--
			patience = timeout("RYUK_RECONNECTION_TIMEOUT", 10*time.Second)
		case <-alone:
			return r.reap()
		}
	}
}

func (r *reaper) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.came <- struct{}{}
		go func() {
			r.serve(c)
			r.left <- struct{}{}
		}()
	}
}

func (r *reaper) serve(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		v, err := url.ParseQuery(lines.Text())
		if err != nil {
			fmt.Fprintln(os.Stderr, "filters:", err)
			return
		}
		r.mu.Lock()
		r.filters[lines.Text()] = v
		r.mu.Unlock()
		if _, err := io.WriteString(c, "ACK\n"); err != nil {
			return
		}
	}
}

func engine() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
	}}}
}

// reap removes containers first, for they hold the rest.
func (r *reaper) reap() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, kind := range []struct{ list, key, remove, how string }{
		{"/containers/json?all=1&", "Id", "/containers/", "?force=1&v=1"},
		{"/networks?", "Id", "/networks/", ""},
		{"/volumes?", "Name", "/volumes/", "?force=1"},
		{"/images/json?", "Id", "/images/", "?force=1"},
	} {
		for _, f := range r.filters {
			errs = append(errs, remove(kind.list, kind.key, kind.remove, kind.how, f))
		}
	}
	return errors.Join(errs...)
}

func remove(list, key, path, how string, f url.Values) error {
	filters, err := json.Marshal(f)
	if err != nil {
		return err
	}
	body, err := call(http.MethodGet, list+url.Values{"filters": {string(filters)}}.Encode())
	if err != nil {
		return err
	}
	var found []map[string]any
	var volumes struct{ Volumes []map[string]any }
	if json.Unmarshal(body, &found) != nil {
		if err := json.Unmarshal(body, &volumes); err != nil {
			return err
		}
		found = volumes.Volumes
	}
	var errs []error
	for _, f := range found {
		id, _ := f[key].(string)
		fmt.Println("removing", strings.Trim(path, "/"), id)
		_, err := call(http.MethodDelete, path+url.PathEscape(id)+how)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func call(method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://engine"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := engine().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotFound {
		err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	return b, err
}
