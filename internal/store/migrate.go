package store

import (
	"fmt"
	"log/slog"
	"strconv"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// migration brings a database from the schema before it to schema To, in one
// transaction together with the new schema number. It must not assume the
// present form of record types: it works on stored JSON.
type migration struct {
	To   int
	What string
	Do   func(*bolt.Tx) error
}

// firstSchema is what a database without migrations is at.
const firstSchema = 1

// migrations returns every migration, oldest first, To rising by one from
// firstSchema+1. Released ones are never changed.
func migrations() []migration {
	return []migration{
		// Old records are good as they are. The number alone keeps an older daemon
		// from writing them again without the snapshots that it does not know.
		{To: 2, What: "volumes have snapshots", Do: func(*bolt.Tx) error { return nil }},
	}
}

// Newest is the schema of this program.
func Newest() int { return firstSchema + len(migrations()) }

const schemaKey = "schema"

func metaBucket() []byte { return []byte("_meta") }

func (db *DB) migrate(log *slog.Logger, ms []migration) error {
	known := firstSchema + len(ms)
	have, err := db.schema()
	if err != nil {
		return err
	}
	switch {
	case have == 0: // new file: born at the newest schema
		return db.bolt.Update(func(tx *bolt.Tx) error { return putSchema(tx, known) })
	case have > known:
		return fault.New(errdefs.ErrFailedPrecondition,
			"metadata database %s has schema %d, made by a newer Holdfast; this one knows schemas up to %d: start the newer holdfastd, or put back the backup it made beside the file",
			db.path, have, known)
	case have == known:
		return nil
	}
	if err := db.backup(log, have); err != nil {
		return err
	}
	if err := failpoint.Hit("store.migrate.backedUp"); err != nil {
		return err
	}
	for _, m := range ms[have-firstSchema:] {
		err := db.bolt.Update(func(tx *bolt.Tx) error {
			if err := m.Do(tx); err != nil {
				return err
			}
			if err := failpoint.Hit("store.migrate.changed"); err != nil {
				return err
			}
			return putSchema(tx, m.To)
		})
		if err == nil {
			err = failpoint.Hit("store.migrate.committed")
		}
		if err != nil {
			return fmt.Errorf("migrate metadata database to schema %d (%s): %w", m.To, m.What, err)
		}
		log.Info("metadata database migrated", logkey.From, m.To-1, logkey.To, m.To, logkey.Why, m.What)
	}
	return nil
}

func (db *DB) schema() (int, error) {
	n := 0
	err := db.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(metaBucket())
		if b == nil {
			return nil
		}
		var err error
		n, err = strconv.Atoi(string(b.Get([]byte(schemaKey))))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read schema of metadata database: %w", err)
	}
	return n, nil
}

func putSchema(tx *bolt.Tx, n int) error {
	b, err := tx.CreateBucketIfNotExists(metaBucket())
	if err != nil {
		return err
	}
	return b.Put([]byte(schemaKey), []byte(strconv.Itoa(n)))
}
