package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Port is where nodes listen for each other. It is the same on all nodes, as
// SwarmKit tells a node's address and no port of ours.
const Port = 2378

// Member is a node of the swarm.
type Member struct {
	ID   string
	Name string // of the machine
	Addr string // with a port where that is not Port
}

func (m Member) host() string {
	if _, _, err := net.SplitHostPort(m.Addr); err == nil {
		return m.Addr
	}
	return net.JoinHostPort(m.Addr, strconv.Itoa(Port))
}

// Deps are the parts a Peers works with; all are required.
type Deps struct {
	Log      *slog.Logger
	Clock    clock.Clock
	Identity *Identity
	Self     func() string // this node's ID
	// Known lists all members. On a worker it is an error.
	Known func(ctx context.Context) ([]Member, error)
	// Managers are those that this node knows of by itself.
	Managers func() []Member
	// Images is what this node shows to others.
	Images http.Handler
	// Take gets an image from other nodes and keeps it under the name.
	Take func(ctx context.Context, name string, d digest.Digest) error
	// Sets answers what is under SetsPath; nil: nothing is there.
	Sets http.Handler
}

// Peers are the other nodes of this node's swarm.
type Peers struct {
	d Deps

	mu      sync.Mutex // guards the fields below; never held across I/O
	members []Member
	asked   time.Time
	clients map[string]*http.Client // by node
}

// New returns the peers. It does nothing until it is asked or told to Serve.
func New(d Deps) *Peers { return &Peers{d: d, clients: map[string]*http.Client{}} }

// Timing. Peers are near: one that does not answer soon does not answer.
const (
	dialLimit    = 2 * time.Second
	answerLimit  = 3 * time.Second
	stallLimit   = 5 * time.Second // a transfer that stands still goes on elsewhere
	membersFresh = 5 * time.Second
	askAgain     = time.Second // who is unknown makes this node ask, not more often
	listenAgain  = time.Second
	membersPath  = "/holdfast/v1/members"
	listLimit    = 4 << 20
)

// Serve answers other members until ctx ends.
func (p *Peers) Serve(ctx context.Context, host string) error {
	addr := net.JoinHostPort(host, strconv.Itoa(Port))
	var l net.Listener
	for told := false; l == nil; told = true {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", addr); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told {
			p.d.Log.Warn("other nodes cannot get images of this one: waiting for the address", logkey.Address, addr, logkey.Err, err)
		}
		if clock.Sleep(ctx, p.d.Clock, listenAgain) != nil {
			return nil
		}
	}
	return p.serve(ctx, l)
}

func (p *Peers) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("/v2/", p.d.Images)
	mux.HandleFunc("GET "+membersPath, p.tellMembers)
	mux.HandleFunc("POST "+takePath, p.take)
	if p.d.Sets != nil {
		mux.Handle(SetsPath, p.d.Sets)
	}
	s := &http.Server{
		Handler:           mux,
		TLSConfig:         p.d.Identity.server(p.allow), //nolint:contextcheck // a handshake has none
		ReadHeaderTimeout: answerLimit,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(p.d.Log.Handler(), slog.LevelDebug), // strangers knock: no news
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	defer p.forget()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve other nodes: %w", err)
	}
	return nil
}

// forget closes the connections to others.
func (p *Peers) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.CloseIdleConnections()
	}
	p.clients = map[string]*http.Client{}
}

// allow says whether a node with a good certificate is a member still. With no
// manager to ask the certificate counts.
func (p *Peers) allow(ctx context.Context, node string) error {
	p.mu.Lock()
	list, age := p.members, p.d.Clock.Now().Sub(p.asked)
	p.mu.Unlock()
	has := func(l []Member) bool { return slices.ContainsFunc(l, func(m Member) bool { return m.ID == node }) }
	if has(list) && age < membersFresh {
		return nil
	}
	if list == nil || age > askAgain {
		var err error
		if list, err = p.ask(ctx); err != nil {
			return nil //nolint:nilerr // no manager tells: what the authority signed counts
		}
	}
	if !has(list) {
		return fmt.Errorf("node %s is not in the swarm", node)
	}
	return nil
}

// Members lists the nodes of the swarm, this one too. Where no manager can be
// asked it is what was known last.
func (p *Peers) Members(ctx context.Context) ([]Member, error) {
	p.mu.Lock()
	list, age := p.members, p.d.Clock.Now().Sub(p.asked)
	p.mu.Unlock()
	if list != nil && age < membersFresh {
		return list, nil
	}
	now, err := p.ask(ctx)
	if err == nil {
		return now, nil
	}
	if list == nil {
		list = p.d.Managers()
	}
	if len(list) == 0 {
		return nil, err
	}
	return list, nil
}

// ask gets the list of members: of this node if it is a manager, else of the
// first manager that answers.
func (p *Peers) ask(ctx context.Context) ([]Member, error) {
	list, err := p.d.Known(ctx)
	if err != nil {
		list, err = p.askManagers(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members, p.asked = list, p.d.Clock.Now()
	return list, nil
}

func (p *Peers) askManagers(ctx context.Context, why error) ([]Member, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	type answer struct {
		list []Member
		err  error
	}
	managers := p.others(p.d.Managers())
	answers := make(chan answer, len(managers))
	for _, m := range managers {
		go func() {
			list, err := p.askManager(ctx, m)
			answers <- answer{list, err}
		}()
	}
	errs := []error{why}
	for range managers {
		a := <-answers
		if a.err == nil {
			return a.list, nil
		}
		errs = append(errs, a.err)
	}
	return nil, fmt.Errorf("ask the managers who is in the swarm: %w", errors.Join(errs...))
}

func (p *Peers) askManager(ctx context.Context, m Member) ([]Member, error) {
	resp, err := p.do(ctx, m, http.MethodGet, membersPath, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("manager %s answers %s", m.Addr, resp.Status)
	}
	var list []Member
	if err := json.NewDecoder(io.LimitReader(resp.Body, listLimit)).Decode(&list); err != nil {
		return nil, fmt.Errorf("manager %s: %w", m.Addr, err)
	}
	return list, nil
}

// tellMembers is askManager's other end.
func (p *Peers) tellMembers(w http.ResponseWriter, r *http.Request) {
	list, err := p.d.Known(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		p.d.Log.Debug("members not told", logkey.Err, err)
	}
}

// others leaves this node out.
func (p *Peers) others(all []Member) []Member {
	self := p.d.Self()
	return slices.DeleteFunc(slices.Clone(all), func(m Member) bool { return m.ID == self || m.Addr == "" })
}

func (p *Peers) client(node string) *http.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[node]
	if c == nil {
		c = &http.Client{
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: dialLimit}).DialContext,
				TLSClientConfig:       p.d.Identity.client(node),
				TLSHandshakeTimeout:   answerLimit,
				ResponseHeaderTimeout: answerLimit,
				MaxIdleConnsPerHost:   4,
				IdleConnTimeout:       30 * time.Second,
				DisableCompression:    true, // layers are compressed; and a range is of the bytes as they are
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		p.clients[node] = c
	}
	return c
}

// do asks one node. The caller closes the answer's body.
func (p *Peers) do(ctx context.Context, m Member, method, path string, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+m.host()+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	return p.client(m.ID).Do(r) //nolint:contextcheck // a handshake has none
}
