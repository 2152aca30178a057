package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

type thing struct {
	ID   string
	Data string
}

func tempDB(t *testing.T) (*DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, path
}

func reopen(t *testing.T, db *DB) *DB {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := Open(db.path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return out
}

func TestCollection(t *testing.T) {
	db, _ := tempDB(t)
	c := NewCollection[thing](db, "things")
	if all, err := c.All(); err != nil || len(all) != 0 {
		t.Fatalf("empty collection: %v, %v", all, err)
	}
	if err := c.Delete("nothing"); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	for _, id := range []string{"b", "a", "c"} {
		if err := c.Put(id, &thing{ID: id, Data: "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put("a", &thing{ID: "a", Data: "2"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Put("", &thing{}); err == nil {
		t.Error("empty key taken")
	}
	c = NewCollection[thing](reopen(t, db), "things")
	all, err := c.All()
	if err != nil || len(all) != 2 || *all[0] != (thing{"a", "2"}) || *all[1] != (thing{"c", "1"}) {
		t.Errorf("got %v, %v", all, err)
	}
	if v, err := c.Get("c"); err != nil || v.ID != "c" {
		t.Errorf("get: %v, %v", v, err)
	}
	if _, err := c.Get("b"); !errdefs.IsNotFound(err) {
		t.Errorf("get of deleted: %v", err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	_, path := tempDB(t)
	_, err := Open(path, Options{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use by another holdfastd") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedValueNamesItsKey(t *testing.T) {
	db, _ := tempDB(t)
	c := NewCollection[thing](db, "things")
	if err := c.Put("good", &thing{ID: "good"}); err != nil {
		t.Fatal(err)
	}
	if err := db.bolt.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("things")).Put([]byte("bad"), []byte("{torn"))
	}); err != nil {
		t.Fatal(err)
	}
	all, err := c.All()
	if len(all) != 1 || err == nil || !strings.Contains(err.Error(), "record things/bad is damaged") {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := c.Get("bad"); !errdefs.IsDataLoss(err) {
		t.Errorf("get: %v", err)
	}
}

func TestConcurrentPutsAllLand(t *testing.T) {
	db, _ := tempDB(t)
	c := NewCollection[thing](db, "things")
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := c.Put(strconv.Itoa(i), &thing{ID: strconv.Itoa(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := NewCollection[thing](reopen(t, db), "things").All()
	if err != nil || len(all) != n {
		t.Errorf("got %d records, %v", len(all), err)
	}
}

// One caller's impossible change must not undo those that share its commit.
func TestBatchWithABadChange(t *testing.T) {
	db, _ := tempDB(t)
	bad := errors.New("bad")
	put := func(k string) *write {
		return &write{do: func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put([]byte(k), []byte("{}"))
		}}
	}
	batch := []*write{put("a"), {do: func(*bolt.Tx) error { return bad }}, put("c")}
	db.commitBatch(batch)
	if batch[0].err != nil || !errors.Is(batch[1].err, bad) || batch[2].err != nil {
		t.Errorf("got %v, %v, %v", batch[0].err, batch[1].err, batch[2].err)
	}
	if all, err := NewCollection[thing](db, "b").All(); err != nil || len(all) != 2 {
		t.Errorf("got %v, %v", all, err)
	}
}

// firstDB is a database of the first schema.
func firstDB(t *testing.T) (*DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := open(path, Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db, path
}

func TestMigrations(t *testing.T) {
	db, path := firstDB(t)
	if err := NewCollection[thing](db, "things").Put("a", &thing{ID: "a", Data: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	ms := []migration{{To: 2, What: "upper", Do: func(tx *bolt.Tx) error {
		data, err := json.Marshal(thing{"a", "new"})
		if err != nil {
			return err
		}
		return tx.Bucket([]byte("things")).Put([]byte("a"), data)
	}}}
	db, err := open(path, Options{Log: slog.New(slog.DiscardHandler)}, ms)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := NewCollection[thing](db, "things").Get("a"); err != nil || v.Data != "new" {
		t.Errorf("after migration: %v, %v", v, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	old, err := open(path+".schema-1.bak", Options{}, nil)
	if err != nil {
		t.Fatalf("backup: %v", err)
	}
	if v, err := NewCollection[thing](old, "things").Get("a"); err != nil || v.Data != "old" {
		t.Errorf("backup holds %v, %v", v, err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := open(path, Options{}, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "made by a newer Holdfast") {
		t.Errorf("older program on newer schema: %v", err)
	}
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	db, path := firstDB(t)
	if err := NewCollection[thing](db, "things").Put("a", &thing{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("cannot")
	_, err := open(path, Options{}, []migration{{To: 2, What: "fail", Do: func(tx *bolt.Tx) error {
		return errors.Join(tx.DeleteBucket([]byte("things")), bad)
	}}})
	if !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
	db, err = open(path, Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := NewCollection[thing](db, "things").Get("a"); err != nil {
		t.Error(err)
	}
}

// Each released migration raises the number by one; an older program is kept off.
func TestReleasedMigrations(t *testing.T) {
	db, path := firstDB(t)
	if err := NewCollection[thing](db, "volumes").Put("data", &thing{ID: "data", Data: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for i, m := range migrations() {
		if m.To != firstSchema+1+i {
			t.Errorf("migration %d leads to schema %d", i, m.To)
		}
	}
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := NewCollection[thing](db, "volumes").Get("data"); err != nil || v.Data != "x" {
		t.Errorf("got %v, %v", v, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(path, Options{}, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a program of the first schema: %v", err)
	}
}

func TestTornFileIsAnErrorNotACrash(t *testing.T) {
	db, path := tempDB(t)
	c := NewCollection[thing](db, "things")
	for i := range 200 {
		if err := c.Put(fmt.Sprint(i), &thing{Data: strings.Repeat("x", 500)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{100, 4096, 8192, 3 * 4096, fi.Size() / 4} {
		torn := filepath.Join(t.TempDir(), "torn.db")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(torn, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(torn, Options{})
		if err == nil {
			all, err := NewCollection[thing](db, "things").All()
			t.Errorf("%d bytes: opened, holds %d records, %v", size, len(all), err)
			_ = db.Close()
			continue
		}
		if !strings.Contains(err.Error(), torn) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// A writer killed at any moment leaves every record it was told is written.
func TestKilledWriterLosesNothingAcknowledged(t *testing.T) {
	if path := os.Getenv("HF_STORE_CHILD"); path != "" {
		writeForEver(path)
		return
	}
	path := filepath.Join(t.TempDir(), "meta.db")
	seen := 0
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLosesNothingAcknowledged$")
		cmd.Env = append(os.Environ(), "HF_STORE_CHILD="+path, fmt.Sprintf("HF_STORE_FROM=%d", seen))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		target := seen + 5 + round*7
		for seen < target {
			var n int
			if _, err := fmt.Fscanln(out, &n); err != nil {
				t.Fatalf("child ended: %v", err)
			}
			seen = n + 1
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		db, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		all, err := NewCollection[thing](db, "things").All()
		if err != nil || len(all) < seen {
			t.Errorf("round %d: %d records of %d acknowledged, %v", round, len(all), seen, err)
		}
		seen = len(all)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func writeForEver(path string) {
	from, err := strconv.Atoi(os.Getenv("HF_STORE_FROM"))
	if err != nil {
		panic(err)
	}
	db, err := Open(path, Options{})
	if err != nil {
		panic(err)
	}
	c := NewCollection[thing](db, "things")
	for i := from; ; i++ {
		if err := c.Put(fmt.Sprintf("%08d", i), &thing{Data: strings.Repeat("y", 3000)}); err != nil {
			panic(err)
		}
		fmt.Println(i)
	}
}

// A full disk is a clear error, loses nothing, and writing works again after.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(filepath.Join(dir, "meta.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := NewCollection[thing](db, "things")
	var want []string
	var full error
	for i := 0; i < 1000 && full == nil; i++ {
		id := fmt.Sprintf("%04d", i)
		if full = c.Put(id, &thing{ID: id, Data: strings.Repeat("z", 8000)}); full == nil {
			want = append(want, id)
		}
	}
	if !errors.Is(full, syscall.ENOSPC) || !errdefs.IsResourceExhausted(full) {
		t.Fatalf("got %v", full)
	}
	t.Logf("after %d records: %v", len(want), full)
	check := func() {
		t.Helper()
		all, err := c.All()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range all {
			got = append(got, v.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	}
	check()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := c.Put("9999", &thing{ID: "9999"}); err != nil {
		t.Errorf("with space again: %v", err)
	}
	want = append(want, "9999")
	check()
}

func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 20} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db, err := Open(filepath.Join(b.TempDir(), "meta.db"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			c := NewCollection[thing](db, "things")
			b.SetParallelism(writers)
			v := &thing{Data: strings.Repeat("x", 4000)}
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := c.Put(strconv.Itoa(i%100), v); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
