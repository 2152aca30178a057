package image

import (
	"context"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// claims are images of which containers are being made: not yet users, but not
// to be removed from under them. An image is claimed or going, never both.
type claims struct {
	mu    sync.Mutex // guards the fields; never held across I/O
	held  map[digest.Digest]int
	going map[digest.Digest]bool
}

// take claims the image, unless it is going.
func (c *claims) take(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.going[d] {
		return false
	}
	c.held[d]++
	return true
}

func (c *claims) give(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[d]--; c.held[d] <= 0 {
		delete(c.held, d)
	}
}

// remove begins to remove the image, unless it is claimed; end ends it.
func (c *claims) remove(d digest.Digest) (end func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[d] > 0 {
		return nil, false
	}
	c.going[d] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.going, d)
	}, true
}

// Claim keeps the image that ref means from being removed until release is called.
func (s *Service) Claim(ctx context.Context, ref string) (release func(), err error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	d := r.Target.Digest
	if !s.claims.take(d) {
		parsed, err := reference.ParseAnyReference(ref)
		if err != nil {
			return nil, err
		}
		return nil, errNoImage(parsed)
	}
	return sync.OnceFunc(func() { s.claims.give(d) }), nil
}
