package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// NamedHeader tells when a node gave a name to what it means there.
const NamedHeader = "Holdfast-Named"

// gather is how long others are waited for once one node has an image: layers
// come quicker from several.
const gather = 150 * time.Millisecond

// Image is an image that other nodes have.
type Image struct {
	Target ocispec.Descriptor
	p      *Peers
	from   []Member
	next   atomic.Uint32
}

// hit is one node's answer.
type hit struct {
	m     Member
	d     ocispec.Descriptor
	named time.Time
	err   error
}

// Find asks all other nodes for an image at once. A name without a digest means
// what the node meant by it that named it last. It is errdefs.ErrNotFound where
// nobody has it.
func (p *Peers) Find(ctx context.Context, ref reference.Named) (*Image, error) {
	members, err := p.Members(ctx)
	if err != nil {
		return nil, err
	}
	others := p.others(members)
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	hits := make(chan hit, len(others))
	for _, m := range others {
		go func() { hits <- p.head(ctx, m, ref) }()
	}
	var found []hit
	var soon <-chan time.Time
	for left := len(others); left > 0; left-- {
		select {
		case h := <-hits:
			switch {
			case h.err == nil:
				found = append(found, h)
				if soon == nil {
					soon = time.After(gather)
				}
			case !errdefs.IsNotFound(h.err):
				p.d.Log.Debug("node not asked for an image", logkey.Address, h.m.Addr, logkey.Err, h.err)
			}
		case <-soon:
			left = 1
		case <-ctx.Done():
			left = 1
		}
	}
	img := choose(found)
	if img == nil {
		return nil, fmt.Errorf("no other node of the swarm has %s: %w", reference.FamiliarString(ref), errdefs.ErrNotFound)
	}
	img.p = p
	return img, nil
}

// choose takes what was named last, and all who have just that.
func choose(found []hit) *Image {
	var best *hit
	for i := range found {
		h := &found[i]
		if best == nil || h.named.After(best.named) || h.named.Equal(best.named) && h.d.Digest < best.d.Digest {
			best = h
		}
	}
	if best == nil {
		return nil
	}
	out := &Image{Target: best.d}
	for _, h := range found {
		if h.d.Digest == best.d.Digest {
			out.from = append(out.from, h.m)
		}
	}
	return out
}

func (p *Peers) head(ctx context.Context, m Member, ref reference.Named) hit {
	want := "latest"
	switch r := ref.(type) {
	case reference.Digested:
		want = r.Digest().String()
	case reference.Tagged:
		want = r.Tag()
	}
	q := url.Values{"ns": {reference.Domain(ref)}}
	resp, err := p.do(ctx, m, http.MethodHead, "/v2/"+reference.Path(ref)+"/manifests/"+want+"?"+q.Encode(), nil)
	if err != nil {
		return hit{m: m, err: err}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return hit{m: m, err: errdefs.ErrNotFound}
	default:
		return hit{m: m, err: fmt.Errorf("it answers %s", resp.Status)}
	}
	h := hit{m: m, d: ocispec.Descriptor{
		MediaType: resp.Header.Get("Content-Type"), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength,
	}}
	if err := h.d.Digest.Validate(); err != nil {
		return hit{m: m, err: err}
	}
	if r, ok := ref.(reference.Digested); ok && r.Digest() != h.d.Digest {
		return hit{m: m, err: fmt.Errorf("it answers with %s", h.d.Digest)}
	}
	if s := resp.Header.Get(NamedHeader); s != "" {
		if h.named, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return hit{m: m, err: err}
		}
	}
	return h
}

// Fetch opens a part of the image. Parts are asked of the nodes in turn. A node
// that fails in the middle is left and the next one goes on where it stopped.
func (i *Image) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	t := &transfer{ctx: ctx, i: i, d: d, at: int(i.next.Add(1)-1) % len(i.from), tries: 2 * len(i.from)}
	if err := t.open(nil); err != nil { //nolint:contextcheck // it has it
		return nil, err
	}
	return t, nil
}

// transfer is one blob on its way.
type transfer struct {
	ctx   context.Context //nolint:containedctx // of one read, which this is
	i     *Image
	d     ocispec.Descriptor
	at    int // whom to ask
	tries int // how many more openings there may be

	off   int64
	body  io.ReadCloser
	stop  context.CancelFunc
	watch *time.Timer
}

// open asks nodes in turn for what is missing; why is what ended the last try.
func (t *transfer) open(why error) error {
	for t.tries > 0 {
		m := t.i.from[t.at]
		t.at = (t.at + 1) % len(t.i.from)
		t.tries--
		err := t.openAt(m)
		if err == nil {
			return nil
		}
		why = fmt.Errorf("node %s: %w", m.Addr, err)
		if t.ctx.Err() != nil {
			break
		}
		t.i.p.d.Log.Debug("part of an image not read from a node", logkey.Address, m.Addr, logkey.Err, err)
	}
	return fmt.Errorf("fetch %s from other nodes: %w", t.d.Digest, why)
}

func (t *transfer) openAt(m Member) error {
	ctx, cancel := context.WithCancel(t.ctx)
	header := http.Header{}
	if t.off > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(t.off, 10)+"-")
	}
	resp, err := t.i.p.do(ctx, m, http.MethodGet, "/v2/image/blobs/"+t.d.Digest.String(), header)
	if err != nil {
		cancel()
		return err
	}
	want := http.StatusOK
	if t.off > 0 {
		want = http.StatusPartialContent
	}
	switch {
	case resp.StatusCode != want:
		err = fmt.Errorf("it answers %s", resp.Status)
	case resp.ContentLength != t.d.Size-t.off:
		err = fmt.Errorf("it has %d bytes and not %d", resp.ContentLength+t.off, t.d.Size)
	}
	if err != nil {
		cancel()
		return errors.Join(err, resp.Body.Close())
	}
	t.body, t.stop = resp.Body, cancel
	t.watch = time.AfterFunc(stallLimit, cancel)
	return nil
}

// Read implements io.Reader.
func (t *transfer) Read(p []byte) (int, error) {
	for {
		switch {
		case t.off == t.d.Size:
			return 0, io.EOF
		case t.body == nil:
			return 0, io.ErrClosedPipe
		}
		t.watch.Reset(stallLimit)
		n, err := t.body.Read(p)
		t.watch.Stop()
		t.off += int64(n)
		if n > 0 || err == nil {
			return n, nil
		}
		if err := t.Close(); err != nil {
			t.i.p.d.Log.Debug("transfer not closed", logkey.Err, err)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if t.ctx.Err() != nil {
			return 0, t.ctx.Err()
		}
		if err := t.open(err); err != nil {
			return 0, err
		}
	}
}

// Close implements io.Closer.
func (t *transfer) Close() error {
	if t.body == nil {
		return nil
	}
	t.watch.Stop()
	t.stop()
	err := t.body.Close()
	t.body = nil
	return err
}
