package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/openfile"
)

// Limits bound what a plugin can cost. The zero value of a field is its default.
type Limits struct {
	Quick  time.Duration // for questions: 10 s
	Slow   time.Duration // for what moves data or mounts: 2 min
	Dial   time.Duration // until a plugin that is starting listens: 5 s
	Answer int64         // bytes of an answer: 4 MiB
}

func (l *Limits) fill() {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&l.Quick, 10 * time.Second}, {&l.Slow, 2 * time.Minute}, {&l.Dial, 5 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if l.Answer == 0 {
		l.Answer = 4 << 20
	}
}

const (
	mediaType = "application/vnd.docker.plugins.v1.2+json"
	// maxErr bounds what a plugin says went wrong.
	maxErr = 4096
	// firstPause is how long the first retry waits; each further one twice as long.
	firstPause = 50 * time.Millisecond
)

// refusal is what the plugin itself answered: it understood, and it will not.
type refusal struct{ method, text string }

// Error implements error.
func (r *refusal) Error() string { return r.method + ": " + r.text }

// silent is a plugin that gave no answer that can be used.
func silent(name, method string, err error) error {
	return fault.Wrap(errdefs.ErrUnavailable, err, "plugin %s: %s", name, method)
}

// call asks once, but for a plugin that does not listen (yet): nothing has
// reached it, so it is tried again until Limits.Dial is over.
func call(ctx context.Context, e endpoint, name, method string, in, out any, within time.Duration, l Limits) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %s", within))
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask plugin %s: %w", name, err)
	}
	tr, scheme, err := transport(e)
	if err != nil {
		return silent(name, method, err)
	}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it sends us elsewhere") }}
	giveUp := time.NewTimer(l.Dial)
	defer giveUp.Stop()
	for pause := firstPause; ; pause *= 2 {
		err := post(ctx, client, scheme+"://plugin/"+method, method, body, out, l.Answer)
		var refused *refusal
		if err == nil || errors.As(err, &refused) {
			return err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if !notListening(err) {
			return silent(name, method, err)
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
			continue
		case <-giveUp.C:
		case <-ctx.Done():
		}
		again.Stop()
		return silent(name, method, err)
	}
}

func notListening(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" &&
		(errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EAGAIN))
}

func transport(e endpoint) (*http.Transport, string, error) {
	t := &http.Transport{
		// One connection for a call: a plugin that restarts leaves none behind that
		// looks alive.
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if e.network == "unix" {
				return openfile.Dial(ctx, e.addr)
			}
			var d net.Dialer
			return d.DialContext(ctx, e.network, e.addr)
		},
	}
	if e.tls == nil {
		return t, "http", nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.tls.InsecureSkipVerify} //nolint:gosec // the administrator's word
	if host, _, err := net.SplitHostPort(e.addr); err == nil {
		c.ServerName = host
	}
	if e.tls.CAFile != "" {
		pem, err := readSmall(e.tls.CAFile)
		if err != nil {
			return nil, "", fmt.Errorf("read CAFile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("CAFile %s holds no certificate", e.tls.CAFile)
		}
	}
	if e.tls.CertFile != "" || e.tls.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(e.tls.CertFile, e.tls.KeyFile)
		if err != nil {
			return nil, "", fmt.Errorf("read CertFile and KeyFile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	t.TLSClientConfig = c
	return t, "https", nil
}

// post sends one request and reads the answer, which may carry an error in it.
func post(ctx context.Context, c *http.Client, url, method string, body []byte, out any, limit int64) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", mediaType)
	req.Header.Set("Content-Type", mediaType)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("an answer of more than %d bytes", limit)
	}
	var said struct{ Err string }
	jerr := json.Unmarshal(b, &said)
	switch {
	case said.Err != "":
		return &refusal{method, words(said.Err)}
	case resp.StatusCode != http.StatusOK:
		text := words(string(b))
		if jerr == nil || text == "" {
			text = resp.Status
		}
		return &refusal{method, text}
	case jerr != nil:
		return fmt.Errorf("an answer that is not the protocol's: %w", jerr)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("an answer that is not the protocol's: %w", err)
	}
	return nil
}

// words makes what a plugin said a text for people: not too long, and nothing
// that drives a terminal or forges lines of a log.
func words(s string) string {
	if len(s) > maxErr {
		s = s[:maxErr] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(s, "?")))
}
