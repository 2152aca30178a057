// Package servetest is a store without a database, for the handlers' tests.
package servetest

import (
	"context"
	"time"

	"holdfast.dev/holdfast/examples/store/catalog"
)

// The servers of the fake store.
var (
	Primary = catalog.Server{Name: "p", Address: "10.0.0.1"}
	Standby = catalog.Server{Name: "s", Address: "10.0.0.2", Standby: true}
)

// Store keeps products in memory. The functions, where set, are asked instead.
type Store struct {
	Products  []catalog.Product
	Marks     []string // that List was asked for
	AddFunc   func(ctx context.Context, name string, cents int64) (catalog.Added, error)
	ListFunc  func(ctx context.Context, mark string) (catalog.Listing, error)
	ReadyFunc func(ctx context.Context) error
}

// Add adds a product as the primary does.
func (s *Store) Add(ctx context.Context, name string, cents int64) (catalog.Added, error) {
	if s.AddFunc != nil {
		return s.AddFunc(ctx, name, cents)
	}
	p := catalog.Product{
		ID: int64(len(s.Products) + 1), Name: name, Cents: cents,
		AddedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), WrittenOn: Primary.Address, ReadFrom: Primary,
	}
	s.Products = append(s.Products, p)
	return catalog.Added{Product: p, Server: Primary, Mark: "0/1A"}, nil
}

// List lists as a standby does.
func (s *Store) List(ctx context.Context, mark string) (catalog.Listing, error) {
	s.Marks = append(s.Marks, mark)
	if s.ListFunc != nil {
		return s.ListFunc(ctx, mark)
	}
	l := catalog.Listing{Server: Standby}
	for _, p := range s.Products {
		p.ReadFrom = Standby
		l.Products = append(l.Products, p)
	}
	return l, nil
}

// Ready is ready.
func (s *Store) Ready(ctx context.Context) error {
	if s.ReadyFunc != nil {
		return s.ReadyFunc(ctx)
	}
	return nil
}
