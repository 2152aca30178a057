package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	writeLimit = 5 * time.Second
	// readLimit is for one server: the next one is asked after it.
	readLimit = 2 * time.Second
	// catchUpLimit is how long a standby may take to show what was just written.
	catchUpLimit = 2 * time.Second
	catchUpPoll  = 25 * time.Millisecond
	listed       = 200
)

// Catalog reads from the standbys in turn and writes to the primary.
type Catalog struct {
	settings Settings
	primary  *pgxpool.Pool
	lookup   func(ctx context.Context, host string) ([]string, error)
	turn     atomic.Uint64

	mu       sync.Mutex               // guards what follows
	standbys map[string]*pgxpool.Pool // by address
	known    map[string][]string      // host name → its addresses when last answered
}

// Open makes a catalog. It connects when it is first asked, and again whenever a
// server has gone.
func Open(ctx context.Context, s Settings) (*Catalog, error) {
	primary, err := pool(ctx, s, s.Host)
	if err != nil {
		return nil, err
	}
	return &Catalog{settings: s, primary: primary, lookup: net.DefaultResolver.LookupHost, standbys: map[string]*pgxpool.Pool{}, known: map[string][]string{}}, nil
}

func pool(ctx context.Context, s Settings, host string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(s.url(host))
	if err != nil {
		return nil, fmt.Errorf("settings of %s: %w", host, err)
	}
	c.MaxConns = 8
	c.MaxConnIdleTime = time.Minute
	return pgxpool.NewWithConfig(ctx, c)
}

// Close ends all connections.
func (c *Catalog) Close() {
	c.primary.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.standbys {
		p.Close()
	}
}

const who = `coalesce(host(inet_server_addr()), ''), current_setting('cluster_name'), pg_is_in_recovery()`

// Add writes a product to the primary.
func (c *Catalog) Add(ctx context.Context, name string, cents int64) (Added, error) {
	var out Added
	name, err := CheckName(name)
	if err != nil {
		return out, err
	}
	if err := checkCents(cents); err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	insert := func() error {
		p := &out.Product
		return c.primary.QueryRow(ctx, `INSERT INTO products (name, cents) VALUES ($1, $2)
			RETURNING id, name, cents, added_at, written_on, `+who, name, cents).
			Scan(&p.ID, &p.Name, &p.Cents, &p.AddedAt, &p.WrittenOn, &out.Server.Address, &out.Server.Name, &out.Server.Standby)
	}
	err = insert()
	if err != nil && pgconn.SafeToRetry(err) {
		// A connection kept from before the primary went away. Nothing was sent, so
		// the product is not added twice.
		err = insert()
	}
	if err != nil {
		return out, fmt.Errorf("write to the primary %s: %w", c.settings.Host, err)
	}
	out.Product.ReadFrom = out.Server
	// The row is safe by now; without a mark the reader just does not wait.
	if err := c.primary.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&out.Mark); err != nil {
		out.Mark = ""
	}
	return out, nil
}

var marks = regexp.MustCompile(`^[0-9A-F]{1,8}/[0-9A-F]{1,8}$`)

// List reads the newest products from a standby that has come to mark, or from
// the primary if no standby answers. What is no mark is ignored: it comes from
// an address that anybody can type.
func (c *Catalog) List(ctx context.Context, mark string) (Listing, error) {
	if !marks.MatchString(mark) {
		mark = ""
	}
	names := strings.Join(c.settings.ReadHosts, ", ")
	pools, lookupErr := c.readers(ctx)
	var errs []error
	if lookupErr != nil {
		errs = append(errs, lookupErr)
	}
	first := c.turn.Add(1)
	for i := range pools {
		l, err := list(ctx, pools[(first+uint64(i))%uint64(len(pools))], mark)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	l, err := list(ctx, c.primary, "")
	if err != nil {
		return l, fmt.Errorf("read from the primary %s: %w", c.settings.Host, errors.Join(append(errs, err)...))
	}
	if len(pools) == 0 {
		l.Note = fmt.Sprintf("There is no standby (%s), so the primary answered.", names)
	} else {
		l.Note = fmt.Sprintf("No standby (%s) answered, so the primary did.", names)
	}
	return l, nil
}

// Ready tells whether the store can be read.
func (c *Catalog) Ready(ctx context.Context) error {
	_, err := c.List(ctx, "")
	return err
}

func list(ctx context.Context, p *pgxpool.Pool, mark string) (Listing, error) {
	l, err := listOnce(ctx, p, mark)
	if err != nil && ctx.Err() == nil {
		// A connection from before the server was started anew; the second is new.
		return listOnce(ctx, p, mark)
	}
	return l, err
}

func listOnce(ctx context.Context, p *pgxpool.Pool, mark string) (Listing, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit+catchUpLimit)
	defer cancel()
	var l Listing
	conn, err := p.Acquire(ctx)
	if err != nil {
		return l, err
	}
	defer conn.Release()
	if mark != "" {
		behind, err := await(ctx, conn, mark)
		if err != nil {
			return l, err
		}
		if behind {
			l.Note = "This standby has not come to the newest product yet; load the page again."
		}
	}
	// The server says who it is even where there are no products.
	if err := conn.QueryRow(ctx, `SELECT `+who).Scan(&l.Server.Address, &l.Server.Name, &l.Server.Standby); err != nil {
		return l, err
	}
	rows, err := conn.Query(ctx, `SELECT id, name, cents, added_at, written_on, `+who+` FROM products ORDER BY id DESC LIMIT $1`, listed)
	if err != nil {
		return l, err
	}
	l.Products, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (Product, error) {
		var p Product
		err := r.Scan(&p.ID, &p.Name, &p.Cents, &p.AddedAt, &p.WrittenOn, &p.ReadFrom.Address, &p.ReadFrom.Name, &p.ReadFrom.Standby)
		return p, err
	})
	return l, err
}

// await waits until a standby has replayed its log up to mark.
func await(ctx context.Context, conn *pgxpool.Conn, mark string) (behind bool, err error) {
	tick := time.NewTicker(catchUpPoll)
	defer tick.Stop()
	limit := time.NewTimer(catchUpLimit)
	defer limit.Stop()
	for {
		var there bool
		if err := conn.QueryRow(ctx, `SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)`, mark).Scan(&there); err != nil {
			return false, err
		}
		if there {
			return false, nil
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// readers returns a pool for each address of the standbys and closes those of
// addresses that are gone.
func (c *Catalog) readers(ctx context.Context) ([]*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var addrs []string
	var errs []error
	for _, host := range c.settings.ReadHosts {
		a, err := c.lookup(ctx, host)
		c.mu.Lock()
		if err != nil {
			errs = append(errs, err)
			var dnsErr *net.DNSError
			if !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
				// Nobody answers for names, as when the engine is started anew; the
				// servers are where they were.
				a = c.known[host]
			}
		}
		c.known[host] = a
		c.mu.Unlock()
		addrs = append(addrs, a...)
	}
	// Names are answered in changing order; turns need one that stays.
	slices.Sort(addrs)
	c.mu.Lock()
	defer c.mu.Unlock()
	var pools []*pgxpool.Pool
	now := map[string]*pgxpool.Pool{}
	for _, a := range addrs {
		if now[a] != nil {
			continue
		}
		p := c.standbys[a]
		if p == nil {
			var err error
			// The pool outlives this request.
			if p, err = pool(context.WithoutCancel(ctx), c.settings, a); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		now[a] = p
		pools = append(pools, p)
	}
	for a, p := range c.standbys {
		if now[a] == nil {
			go p.Close() // waits for who still reads
		}
	}
	c.standbys = now
	return pools, errors.Join(errs...)
}
