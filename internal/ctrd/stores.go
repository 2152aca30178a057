package ctrd

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// collectedImages honours SynchronousDelete.
type collectedImages struct {
	images.Store
	c *collector
}

// Delete implements images.Store.
func (s collectedImages) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	var o images.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	if err := s.Store.Delete(ctx, name, opts...); err != nil {
		return err
	}
	if o.Synchronous {
		return s.c.now(ctx)
	}
	return nil
}

// collectedLeases honours SynchronousDelete.
type collectedLeases struct {
	leases.Manager
	c *collector
}

// Delete implements leases.Manager.
func (s collectedLeases) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	var o leases.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	if err := s.Manager.Delete(ctx, l, opts...); err != nil {
		return err
	}
	if o.Synchronous {
		return s.c.now(ctx)
	}
	return nil
}

func ensureNamespace(ctx context.Context, m *metadata.DB) error {
	err := m.Update(func(tx *bolt.Tx) error {
		return metadata.NewNamespaceStore(tx).Create(ctx, Namespace, nil)
	})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("make engine namespace: %w", err)
	}
	return nil
}

// namespaceStore is containerd's namespace store with a transaction for each call.
type namespaceStore struct{ m *metadata.DB }

func (s namespaceStore) Create(ctx context.Context, ns string, labels map[string]string) error {
	return s.m.Update(func(tx *bolt.Tx) error { return metadata.NewNamespaceStore(tx).Create(ctx, ns, labels) })
}

func (s namespaceStore) Labels(ctx context.Context, ns string) (out map[string]string, err error) {
	err = s.m.View(func(tx *bolt.Tx) error {
		out, err = metadata.NewNamespaceStore(tx).Labels(ctx, ns)
		return err
	})
	return out, err
}

func (s namespaceStore) SetLabel(ctx context.Context, ns, key, value string) error {
	return s.m.Update(func(tx *bolt.Tx) error { return metadata.NewNamespaceStore(tx).SetLabel(ctx, ns, key, value) })
}

func (s namespaceStore) List(ctx context.Context) (out []string, err error) {
	err = s.m.View(func(tx *bolt.Tx) error {
		out, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	})
	return out, err
}

func (s namespaceStore) Delete(ctx context.Context, ns string, opts ...namespaces.DeleteOpts) error {
	return s.m.Update(func(tx *bolt.Tx) error { return metadata.NewNamespaceStore(tx).Delete(ctx, ns, opts...) })
}
