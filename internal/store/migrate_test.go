package store

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/base/failpoint"
)

const envMigrate = "HF_STORE_MIGRATE"

// appending are migrations that must run once each and in their order: each adds
// its number to every record.
func appending() []migration {
	var out []migration
	for to := firstSchema + 1; to <= firstSchema+3; to++ {
		out = append(out, migration{To: to, What: "add " + strconv.Itoa(to), Do: func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("things"))
			return b.ForEach(func(k, v []byte) error {
				var x thing
				if err := json.Unmarshal(v, &x); err != nil {
					return err
				}
				x.Data += strconv.Itoa(to)
				next, err := json.Marshal(x)
				if err != nil {
					return err
				}
				return b.Put(k, next)
			})
		}})
	}
	return out
}

// A daemon that is killed, or fails, at any step of a migration leaves a database
// that the next start brings to the new schema, each step done once; the backup
// is of the old one.
func TestKilledMigration(t *testing.T) {
	if path := os.Getenv(envMigrate); path != "" {
		if !failpoint.Enabled {
			t.Fatal("built without failpoints")
		}
		db, err := open(path, Options{}, appending())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	program := filepath.Join(t.TempDir(), "child.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "failpoint", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the child: %v\n%s", err, out)
	}
	points := []string{"store.backup.copied=", "store.migrate.backedUp="}
	for _, when := range []string{"", "1*off->", "2*off->"} { // of the first, second and third migration
		points = append(points, "store.migrate.changed="+when, "store.migrate.committed="+when)
	}
	for _, point := range points {
		for _, action := range []string{"kill", "error(disk gone)"} {
			t.Run(point+" "+action, func(t *testing.T) { killMigration(t, program, point, action) })
		}
	}
}

func killMigration(t *testing.T, program, point, action string) {
	db, path := firstDB(t)
	for _, id := range []string{"a", "b"} {
		if err := NewCollection[thing](db, "things").Put(id, &thing{ID: id, Data: "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestKilledMigration$")
	cmd.Env = append(os.Environ(), envMigrate+"="+path, failpoint.EnvVar+"="+point+action)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the child went through: %v\n%s", err, out)
	}
	if st, ok := exit.Sys().(syscall.WaitStatus); action == "kill" && (!ok || st.Signal() != syscall.SIGKILL) {
		t.Fatalf("the child ended by itself: %v\n%s", err, out)
	}
	db, err = open(path, Options{}, appending())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if n, err := db.schema(); err != nil || n != firstSchema+3 {
		t.Errorf("schema %d, %v", n, err)
	}
	all, err := NewCollection[thing](db, "things").All()
	if err != nil || len(all) != 2 || all[0].Data != "1234" || all[1].Data != "1234" {
		t.Errorf("after the next start: %v, %v", all, err)
	}
	old, err := open(path+".schema-1.bak", Options{}, nil)
	if err != nil {
		t.Fatalf("backup: %v", err)
	}
	defer old.Close()
	if v, err := NewCollection[thing](old, "things").Get("a"); err != nil || v.Data != "1" {
		t.Errorf("the backup holds %v, %v", v, err)
	}
	if _, err := os.Stat(path + ".schema-1.bak.tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a backup is left: %v", err)
	}
}
