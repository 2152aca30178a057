package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/diskspace"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// reserve is the room that the file always has for more, so that things can be
// removed, and be put down as removed, on a full disk.
const reserve = 1 << 20

// lockWait is how long Open waits for a daemon that is just going away.
const lockWait = time.Second

// Options for Open. The zero value works.
type Options struct {
	Log *slog.Logger // nil: discarded
}

// DB is an open metadata database. It is safe for concurrent use.
type DB struct {
	path string
	bolt *bolt.DB

	queueMu sync.Mutex // guards queue; held for an append only
	queue   []*write
	commit  sync.Mutex // held by whoever commits the queue; taken before queueMu
	room    int64      // size of the file with its reserve; guarded by commit
}

// makeRoom keeps the reserve behind what the file holds. It costs nothing most times.
func (db *DB) makeRoom(tx *bolt.Tx) error {
	if tx.Size()+reserve/2 <= db.room {
		return nil
	}
	db.room = tx.Size() + reserve
	return diskspace.Reserve(db.path, db.room)
}

// write is one caller's change, waiting for a commit.
type write struct {
	do   func(*bolt.Tx) error
	done bool // guarded by DB.commit
	err  error
}

// Open opens the database, makes it if there is none, and brings it to this
// program's schema. A database that another daemon holds, or that a newer
// program wrote, is refused.
func Open(path string, o Options) (*DB, error) {
	return open(path, o, migrations())
}

func open(path string, o Options, ms []migration) (_ *DB, err error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of metadata database: %w", err)
	}
	b, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	db := &DB{path: path, bolt: b}
	if err := b.View(func(tx *bolt.Tx) error { return db.makeRoom(tx) }); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := db.migrate(log, ms); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return db, nil
}

// openBolt opens the file and reads all of it once, with the fault of reading a
// truncated file (it is memory-mapped) turned into an error: a torn database
// must stop the start and not the work of tomorrow. The free list is stored,
// because bbolt would rebuild it in a goroutine of its own, where a torn page
// kills the process.
func openBolt(path string) (b *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fault.New(errdefs.ErrDataLoss, "metadata database %s is damaged (%v); put a backup of it back", path, p)
		}
	}()
	b, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fault.New(errdefs.ErrFailedPrecondition, "metadata database %s is in use by another holdfastd", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fault.Wrap(errdefs.ErrDataLoss, err, "metadata database %s is damaged; put a backup of it back", path)
	case err != nil:
		return nil, fmt.Errorf("open metadata database %s: %w", path, err)
	}
	if err := b.View(readAll); err != nil {
		return nil, errors.Join(fault.Wrap(errdefs.ErrDataLoss, err, "metadata database %s is damaged; put a backup of it back", path), b.Close())
	}
	return b, nil
}

func readAll(tx *bolt.Tx) error {
	fi, err := os.Stat(tx.DB().Path())
	if err != nil {
		return err
	}
	if fi.Size() < tx.Size() {
		return fmt.Errorf("it has %d bytes of %d", fi.Size(), tx.Size())
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
		return b.ForEach(func(_, _ []byte) error { return nil })
	})
}

// Close waits for running transactions and releases the lock.
func (db *DB) Close() error {
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close metadata database: %w", err)
	}
	return nil
}

// update runs do in a transaction that is on disk when update returns. Callers
// that arrive while a commit is being written share the next one, so twenty
// containers starting at once cost two or three fsyncs and not twenty, and a
// lone caller waits for nobody. do may run twice.
func (db *DB) update(do func(*bolt.Tx) error) error {
	w := &write{do: do}
	db.queueMu.Lock()
	db.queue = append(db.queue, w)
	db.queueMu.Unlock()

	db.commit.Lock()
	defer db.commit.Unlock()
	if !w.done {
		db.queueMu.Lock()
		batch := db.queue
		db.queue = nil
		db.queueMu.Unlock()
		db.commitBatch(batch)
	}
	return w.err
}

// commitBatch commits the batch in one transaction. When that fails each change
// gets a transaction of its own, so that one caller's trouble stays its own.
func (db *DB) commitBatch(batch []*write) {
	err := db.bolt.Update(func(tx *bolt.Tx) error {
		if err := db.makeRoom(tx); err != nil {
			return err
		}
		for _, w := range batch {
			if err := w.do(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range batch {
		w.done, w.err = true, err
		if err != nil && len(batch) > 1 {
			w.err = db.bolt.Update(w.do)
		}
	}
}

// backup writes a consistent copy of the database beside it. It is on disk when
// backup returns: the migration that follows may be what a power cut lets live.
func (db *DB) backup(log *slog.Logger, schema int) error {
	to := fmt.Sprintf("%s.schema-%d.bak", db.path, schema)
	tmp := to + ".tmp"
	err := db.bolt.View(func(tx *bolt.Tx) error { return tx.CopyFile(tmp, 0o600) })
	if err == nil {
		err = syncFile(tmp)
	}
	if err == nil {
		err = failpoint.Hit("store.backup.copied")
	}
	if err == nil {
		err = os.Rename(tmp, to)
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(to))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("back up metadata database before migrating it: %w", err), removeIfThere(tmp))
	}
	log.Info("metadata database backed up", logkey.Path, to)
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
