package kopia

import (
	"bufio"
	"crypto/md5" //nolint:gosec // S3's ETag is that
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/backup"
)

// bucket is as much of S3 as a repository needs: one bucket in memory.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	at      map[string]time.Time
	key     string // the access key that is let in
	full    bool
}

type s3Error struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
}

func (b *bucket) fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(s3Error{Code: code, Message: code})
}

// ServeHTTP implements http.Handler.
func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.Contains(r.Header.Get("Authorization"), "Credential="+b.key+"/") {
		b.fail(w, http.StatusForbidden, "InvalidAccessKeyId")
		return
	}
	name, object, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name != "bucket" {
		b.fail(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	q := r.URL.Query()
	switch {
	case object == "" && q.Has("location"):
		_, _ = io.WriteString(w, `<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LocationConstraint>`)
	case object == "" && q.Has("versioning"):
		_, _ = io.WriteString(w, `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`)
	case object == "" && r.Method == http.MethodGet:
		b.list(w, q.Get("prefix"))
	case object == "":
		w.WriteHeader(http.StatusOK)
	case r.Method == http.MethodPut:
		if b.full {
			b.fail(w, http.StatusForbidden, "QuotaExceeded")
			return
		}
		data, err := body(r)
		if err != nil {
			b.fail(w, http.StatusBadRequest, "IncompleteBody")
			return
		}
		b.objects[object], b.at[object] = data, time.Now()
		w.Header().Set("ETag", etag(data))
	case r.Method == http.MethodDelete:
		delete(b.objects, object)
		w.WriteHeader(http.StatusNoContent)
	default:
		b.get(w, r, object)
	}
}

func etag(data []byte) string {
	sum := md5.Sum(data) //nolint:gosec // as above
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (b *bucket) get(w http.ResponseWriter, r *http.Request, object string) {
	data, ok := b.objects[object]
	if !ok {
		b.fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	h := w.Header()
	h.Set("ETag", etag(data))
	h.Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", b.at[object].Truncate(time.Second), strings.NewReader(string(data)))
}

func (b *bucket) list(w http.ResponseWriter, prefix string) {
	type content struct {
		Key          string
		Size         int
		LastModified string
		ETag         string
	}
	out := struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Name        string
		Prefix      string
		KeyCount    int
		MaxKeys     int
		IsTruncated bool
		Contents    []content
	}{Name: "bucket", Prefix: prefix, MaxKeys: 1000}
	for k, data := range b.objects {
		if strings.HasPrefix(k, prefix) {
			out.Contents = append(out.Contents, content{k, len(data), b.at[k].UTC().Format(time.RFC3339Nano), etag(data)})
		}
	}
	slices.SortFunc(out.Contents, func(x, y content) int { return strings.Compare(x.Key, y.Key) })
	out.KeyCount = len(out.Contents)
	_ = xml.NewEncoder(w).Encode(out)
}

// body reads what is put, also in signed chunks: SIZE;chunk-signature=…, data, CRLF.
func body(r *http.Request) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return io.ReadAll(r.Body)
	}
	in := bufio.NewReader(r.Body)
	var out []byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			_, err := io.Copy(io.Discard, in)
			return out, err
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(in, chunk); err != nil {
			return nil, err
		}
		out = append(out, chunk[:n]...)
	}
}

func s3At(t *testing.T, url, key, secret string) backup.Access {
	t.Helper()
	p, err := backup.ParsePlace("s3://bucket/hosts/one", map[string]string{"endpoint": strings.TrimPrefix(url, "http://"), "insecure": "true", "region": "us-east-1"},
		[]string{backup.SecretPassword, backup.SecretAccessKey, backup.SecretSecretKey})
	must(t, err)
	return backup.Access{Name: "cloud", Place: p, Dir: t.TempDir(), Host: "node1", Secrets: map[string]string{
		backup.SecretPassword: "correct horse", backup.SecretAccessKey: key, backup.SecretSecretKey: secret,
	}}
}

func TestARepositoryInAnObjectStore(t *testing.T) {
	requireRoot(t)
	b := &bucket{objects: map[string][]byte{}, at: map[string]time.Time{}, key: "AKIAEXAMPLE"}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	e, src := engine(), t.TempDir()
	sample(t, src)

	a := prepared(t, e, s3At(t, srv.URL, "AKIAEXAMPLE", "very-secret-key"))
	first := save(t, e, a, src)
	write(t, filepath.Join(src, "more"), noise(1<<20, 5))
	second := save(t, e, a, src)
	if second.Totals.Read > 2 {
		t.Errorf("the second backup read %+v", second.Totals)
	}
	for _, id := range []string{first.ID, second.ID} {
		if v := verify(t, e, a, id); !v.OK() {
			t.Errorf("verification: %+v", v)
		}
	}
	for k, data := range b.objects {
		if !strings.HasPrefix(k, "hosts/one/") {
			t.Errorf("object %s is outside of the prefix", k)
		}
		if strings.Contains(string(data), "a.b sorts apart") {
			t.Errorf("object %s holds plain text", k)
		}
	}

	bad := s3At(t, srv.URL, "AKIAOTHER", "very-secret-key")
	if _, err := e.Prepare(t.Context(), bad); !errdefs.IsPermissionDenied(err) || strings.Contains(fmt.Sprint(err), "very-secret-key") {
		t.Errorf("another key: %v", err)
	}
	srv.Close()
	if _, err := e.List(t.Context(), a); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a server that is away: %v", err)
	}
}
