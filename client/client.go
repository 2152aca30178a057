package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/api/types/jsonstream"

	"holdfast.dev/holdfast/api"
)

// Client talks to one daemon. It is safe for concurrent use.
type Client struct {
	http *http.Client
}

// New returns a Client that connects by dial.
func New(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxError bounds the text of an error reply.
const maxError = 1 << 20

// call sends in as JSON, if it is not nil, and reads the reply into out, if that
// is not nil. Errors have the class that belongs to their status.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, method, path, "application/json", body, func(reply io.Reader) error {
		if out == nil {
			return nil
		}
		if err := json.NewDecoder(reply).Decode(out); err != nil {
			return fmt.Errorf("decode reply: %w", err)
		}
		return nil
	})
}

// send makes a request, of the given type where it has a body, and has read take
// the reply if that is no error.
func (c *Client) send(ctx context.Context, method, path, contentType string, body io.Reader, read func(io.Reader) error) error {
	return c.sendFull(ctx, method, path, contentType, body, func(resp *http.Response) error { return read(resp.Body) })
}

// sendAuth is send, without a body, with a client's credentials for a registry.
func (c *Client) sendAuth(ctx context.Context, method, path, auth string, read func(io.Reader) error) error {
	header := http.Header{}
	header.Set("X-Registry-Auth", auth)
	return c.sendAs(ctx, method, path, header, nil, func(resp *http.Response) error { return read(resp.Body) })
}

// sendFull is send for one who wants the reply's header as well.
func (c *Client) sendFull(ctx context.Context, method, path, contentType string, body io.Reader, read func(*http.Response) error) error {
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", contentType)
	}
	return c.sendAs(ctx, method, path, header, body, read)
}

// sendAs is sendFull with the request's headers.
func (c *Client) sendAs(ctx context.Context, method, path string, header http.Header, body io.Reader, read func(*http.Response) error) (err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://holdfast"+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode >= http.StatusBadRequest {
		return failure(resp)
	}
	return read(resp)
}

// failure makes an error of an error reply. A daemon that has no such endpoint,
// which is any but ours, does not serve it: errdefs.ErrNotImplemented.
func failure(resp *http.Response) error {
	var m struct {
		Message string `json:"message"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return fmt.Errorf("read error reply: %w", err)
	}
	if len(b) == 0 { // to a HEAD
		m.Message = http.StatusText(resp.StatusCode)
	} else if json.Unmarshal(b, &m) != nil || m.Message == "" {
		m.Message = string(b)
	}
	if resp.StatusCode == http.StatusNotFound && m.Message == "page not found" {
		return fmt.Errorf("the daemon does not serve this: it is not Holdfast's, or an older one: %w", errdefs.ErrNotImplemented)
	}
	return &replyError{text: m.Message, class: errhttp.ToNative(resp.StatusCode)}
}

// replyError is the daemon's own text with its class.
type replyError struct {
	text  string
	class error
}

// Error implements error.
func (e *replyError) Error() string { return e.text }

// Unwrap gives the class.
func (e *replyError) Unwrap() error { return e.class }

// OutdatedImages lists the images that stand on an old base, by name.
func (c *Client) OutdatedImages(ctx context.Context) ([]api.OutdatedImage, error) {
	var out []api.OutdatedImage
	err := c.call(ctx, http.MethodGet, api.PathOutdated, nil, &out)
	return out, err
}

// AnalyzeImage reads all layers of an image. errdefs.ErrNotFound for an unknown one.
func (c *Client) AnalyzeImage(ctx context.Context, r api.AnalyzeRequest) (api.ImageAnalysis, error) {
	var out api.ImageAnalysis
	err := c.call(ctx, http.MethodPost, api.PathAnalyze, r, &out)
	return out, err
}

// AnalyzeImageTold is AnalyzeImage with Docker's messages of progress, which show
// ranges over to their end.
func (c *Client) AnalyzeImageTold(ctx context.Context, r api.AnalyzeRequest, show func(iter.Seq2[jsonstream.Message, error]) error) (api.ImageAnalysis, error) {
	var out api.ImageAnalysis
	body, err := json.Marshal(r)
	if err != nil {
		return out, fmt.Errorf("encode request: %w", err)
	}
	found := false
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {api.TypeMessages}}
	err = c.sendAs(ctx, http.MethodPost, api.PathAnalyze, header, bytes.NewReader(body), func(reply *http.Response) error {
		return show(func(yield func(jsonstream.Message, error) bool) {
			for dec := json.NewDecoder(reply.Body); ; {
				var m jsonstream.Message
				err := dec.Decode(&m)
				if errors.Is(err, io.EOF) {
					return
				}
				if err == nil && m.Aux != nil {
					found = true
					err = json.Unmarshal(*m.Aux, &out)
				}
				if err != nil {
					err = fmt.Errorf("decode reply: %w", err)
				}
				if !yield(m, err) || err != nil {
					return
				}
			}
		})
	})
	if err == nil && !found {
		err = errors.New("the daemon's reply broke off")
	}
	return out, err
}

// Check tries a volume or a directory. errdefs.ErrNotFound for an unknown one,
// errdefs.ErrInvalidArgument for an unknown database.
func (c *Client) Check(ctx context.Context, r api.CheckRequest) (api.CheckReport, error) {
	var out api.CheckReport
	err := c.call(ctx, http.MethodPost, api.PathCheck, r, &out)
	return out, err
}
