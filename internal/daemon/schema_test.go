package daemon

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
)

var update = flag.Bool("update", false, "write what databases of old schemas read as")

// TestEverySchemaIsRead opens a database that a daemon of each schema left
// (testdata/schema-N.db.gz) and holds what it reads as against schema-N.txt. Who
// adds a migration adds a fixture of the schema that it leads to:
//
//	make build
//	HF_WRITE_FIXTURE=/tmp/schema-N.db go test ./test/api -run TestUpgrade
//	gzip -9n /tmp/schema-N.db, into testdata
//	make golden-update
func TestEverySchemaIsRead(t *testing.T) {
	for n := 1; n <= store.Newest(); n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			base := filepath.Join("testdata", fmt.Sprintf("schema-%d", n))
			path := filepath.Join(t.TempDir(), "holdfast.db")
			unzip(t, base+".db.gz", path)
			db, err := store.Open(path, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var out bytes.Buffer
			section[container.Record](t, &out, db, "containers")
			section[volume.Record](t, &out, db, "volumes")
			section[network.Record](t, &out, db, "networks")
			section[image.Move](t, &out, db, "image-moves")
			if *update {
				if err := os.WriteFile(base+".txt", out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(base + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("reads as\n%s\nand should as\n%s", out.String(), want)
			}
			_, err = os.Stat(fmt.Sprintf("%s.schema-%d.bak", path, n))
			if (err == nil) != (n < store.Newest()) {
				t.Errorf("backup: %v", err)
			}
		})
	}
}

func unzip(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// section writes a collection as today's types read it. What is zero is left
// out, so that a field that is new changes no fixture.
func section[T any](t *testing.T, w io.Writer, db *store.DB, name string) {
	t.Helper()
	all, err := store.NewCollection[T](db, name).All()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		b, err = json.MarshalIndent(told(v), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "%s %s\n", name, b)
	}
}

// told is v without its zero values.
func told(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if e = told(e); e == nil {
				delete(x, k)
			} else {
				x[k] = e
			}
		}
		if len(x) == 0 {
			return nil
		}
	case []any:
		if len(x) == 0 {
			return nil
		}
		for i, e := range x {
			if e = told(e); e != nil { // an element that says nothing still counts
				x[i] = e
			}
		}
	case string:
		if x == "" || strings.HasPrefix(x, "0001-01-01T") {
			return nil
		}
	case float64:
		if x == 0 {
			return nil
		}
	case bool:
		if !x {
			return nil
		}
	}
	return v
}
