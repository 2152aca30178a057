package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Collection is a set of records of one type, keyed by ID, kept as JSON. It
// fills the Records port of a domain.
type Collection[T any] struct {
	db   *DB
	name string
}

// NewCollection returns the collection of that name. It costs nothing: the
// bucket is made by the first Put.
func NewCollection[T any](db *DB, name string) *Collection[T] {
	return &Collection[T]{db: db, name: name}
}

// Put writes the record; it is on disk when Put returns.
func (c *Collection[T]) Put(id string, v *T) error {
	if id == "" {
		return fmt.Errorf("write %s record: empty key", c.name)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write record %s/%s: %w", c.name, id, err)
	}
	err = c.db.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(c.name))
		if err != nil {
			return err
		}
		return b.Put([]byte(id), data)
	})
	return c.failed("write", id, err)
}

// Delete removes the record; one that is not there is no error.
func (c *Collection[T]) Delete(id string) error {
	err := c.db.update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(c.name))
		if b == nil {
			return nil
		}
		return b.Delete([]byte(id))
	})
	return c.failed("delete", id, err)
}

// Get reads one record. errdefs.ErrNotFound.
func (c *Collection[T]) Get(id string) (*T, error) {
	var v *T
	err := c.db.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(c.name))
		if b == nil {
			return nil
		}
		data := b.Get([]byte(id))
		if data == nil {
			return nil
		}
		var err error
		v, err = c.decode(id, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fault.New(errdefs.ErrNotFound, "no record %s/%s", c.name, id)
	}
	return v, nil
}

// All reads every record in key order. Where values are damaged the error names
// each of their keys and the good records come with it.
func (c *Collection[T]) All() ([]*T, error) {
	var (
		out  []*T
		errs []error
	)
	err := c.db.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(c.name))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, data []byte) error {
			v, err := c.decode(string(k), data)
			if err != nil {
				errs = append(errs, err)
				return nil
			}
			out = append(out, v)
			return nil
		})
	})
	return out, errors.Join(append(errs, err)...)
}

func (c *Collection[T]) decode(id string, data []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fault.Wrap(errdefs.ErrDataLoss, err, "record %s/%s is damaged", c.name, id)
	}
	return v, nil
}

func (c *Collection[T]) failed(verb, id string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Wrap(errdefs.ErrResourceExhausted, err, "%s record %s/%s", verb, c.name, id)
	}
	return fmt.Errorf("%s record %s/%s: %w", verb, c.name, id, err)
}
