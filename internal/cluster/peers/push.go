package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/ca"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// takePath asks a node to get an image from others and to keep it.
const takePath = "/holdfast/v1/images/take"

// beat is how often a node that takes an image says that it is at it.
const beat = time.Second

// news is one line of the answer: that it goes on (neither field), or its end.
type news struct {
	Done  bool   `json:",omitempty"`
	Error string `json:",omitempty"`
}

// Push has all other members get an image from those that have it, and keep it
// under the name. told is called once for each, as they end, one at a time.
func (p *Peers) Push(ctx context.Context, name string, d digest.Digest, told func(m Member, err error)) error {
	members, err := p.Members(ctx)
	if err != nil {
		return err
	}
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex // guards errs; held while told is called
		bad int
	)
	others := p.others(members)
	for _, m := range others {
		wg.Go(func() {
			err := p.push(ctx, m, name, d)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				bad++
			}
			told(m, err)
		})
	}
	wg.Wait()
	if bad > 0 {
		return fmt.Errorf("%d of %d other nodes did not get %s", bad, len(others), name)
	}
	return ctx.Err()
}

func (p *Peers) push(ctx context.Context, m Member, name string, d digest.Digest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{"name": {name}, "digest": {d.String()}}
	resp, err := p.do(ctx, m, http.MethodPost, takePath+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return errors.Join(fmt.Errorf("it answers %s: %s", resp.Status, text), err)
	}
	watch := time.AfterFunc(stallLimit, cancel)
	defer watch.Stop()
	in := json.NewDecoder(resp.Body)
	for {
		var n news
		if err := in.Decode(&n); err != nil {
			return fmt.Errorf("it says nothing more: %w", err)
		}
		watch.Reset(stallLimit)
		switch {
		case n.Error != "":
			return errors.New(n.Error)
		case n.Done:
			return nil
		}
	}
}

// take is push's other end. Only managers may ask for it: what a worker says
// changes nothing on other nodes.
func (p *Peers) take(w http.ResponseWriter, r *http.Request) {
	if c := r.TLS.PeerCertificates[0]; len(c.Subject.OrganizationalUnit) != 1 || c.Subject.OrganizationalUnit[0] != ca.ManagerRole {
		http.Error(w, "only managers may push", http.StatusForbidden)
		return
	}
	d := digest.Digest(r.URL.Query().Get("digest"))
	if err := d.Validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(n news) {
		err := out.Encode(n)
		if err == nil {
			err = flush.Flush()
		}
		if err != nil {
			p.d.Log.Debug("manager not told of an image", logkey.Err, err) // it went
		}
	}
	say(news{})
	done := make(chan error, 1)
	ctx := r.Context()
	go func() { done <- p.d.Take(ctx, r.URL.Query().Get("name"), d) }()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			say(news{})
		case err := <-done:
			if err != nil {
				say(news{Error: err.Error()})
				return
			}
			say(news{Done: true})
			return
		}
	}
}
