// Package route is what routers and the server share: the form of a handler,
// request decoding, reply encoding and hijacking.
package route

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/gorilla/mux"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Handler serves a request or returns its error, which the server turns into
// a status by class and into Docker's {"message": …} form.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Route is one endpoint. Path is a gorilla/mux pattern without the version
// prefix, e.g. "/images/{name:.*}/json".
type Route struct {
	Method  string
	Path    string
	Handler Handler
}

// Router lists its routes.
type Router interface {
	Routes() []Route
}

// Var returns the value that the path pattern's {key} matched.
func Var(r *http.Request, key string) string { return mux.Vars(r)[key] }

type versionKey struct{}

// WithVersion stores the negotiated API version ("1.44") in ctx.
func WithVersion(ctx context.Context, v string) context.Context {
	return context.WithValue(ctx, versionKey{}, v)
}

// Version returns the request's API version.
func Version(ctx context.Context) string {
	v, _ := ctx.Value(versionKey{}).(string)
	return v
}

// AtLeast reports whether the request's API version is at least v ("1.44").
func AtLeast(ctx context.Context, v string) bool {
	return compare(Version(ctx), v) >= 0
}

func compare(a, b string) int {
	x, y := minor(a), minor(b)
	return x - y
}

func minor(v string) int {
	_, m, _ := strings.Cut(v, ".")
	n, err := strconv.Atoi(m)
	if err != nil {
		return 0
	}
	return n
}

// maxBody bounds JSON request bodies.
const maxBody = 8 << 20

// Decode reads a JSON body into v. An empty body is an error unless optional.
func Decode(r *http.Request, v any, optional bool) error {
	ct := r.Header.Get("Content-Type")
	if ct != "" || r.ContentLength != 0 { // without a body there is nothing to name the type of
		mt, _, err := mime.ParseMediaType(ct)
		if err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "malformed Content-Type header (%s)", ct)
		}
		if mt != "application/json" && r.ContentLength != 0 {
			return fault.New(errdefs.ErrInvalidArgument, "unsupported Content-Type header (%s): must be 'application/json'", ct)
		}
	}
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			if optional {
				return nil
			}
			return fault.New(errdefs.ErrInvalidArgument, "invalid JSON: got EOF while reading request body")
		}
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "invalid JSON")
	}
	if dec.More() {
		return fault.New(errdefs.ErrInvalidArgument, "unexpected content after JSON")
	}
	return nil
}

// JSON writes v with status.
func JSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// listPart is how much of a list is encoded before it is sent.
const listPart = 32 << 10

// List answers with a list as JSON does, in parts: the client reads the first
// while the next is made, and no more than a part is in memory.
func List[T any](w http.ResponseWriter, status int, list []T) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	b.WriteByte('[')
	for i := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := enc.Encode(&list[i]); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1) // the encoder ends every value with a line break
		if b.Len() >= listPart {
			if _, err := b.WriteTo(w); err != nil {
				return err
			}
		}
	}
	b.WriteString("]\n")
	_, err := b.WriteTo(w)
	return err
}

// Marshal encodes v as JSON does, for another reply to hold.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // "&" is "&" to who reads the text
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Bool reads a boolean query value as Docker does: "", "0", "no", "false" and
// "none" are false, anything else is true.
func Bool(r *http.Request, key string) bool {
	return ParseBool(r.FormValue(key))
}

// BoolOr reads a boolean query value that has a default.
func BoolOr(r *http.Request, key string, def bool) bool {
	if _, ok := r.Form[key]; !ok {
		return def
	}
	return Bool(r, key)
}

// ParseBool is Bool's rule on a string.
func ParseBool(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// Timestamp reads "seconds" or "seconds.nanoseconds"; "" is the zero time.
func Timestamp(v string) (time.Time, error) {
	if v == "" {
		return time.Time{}, nil
	}
	s, frac, _ := strings.Cut(v, ".")
	sec, err := strconv.ParseInt(s, 10, 64)
	if e, ok := err.(*strconv.NumError); ok { //nolint:errorlint // ParseInt returns exactly this type
		return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid seconds %q: %w", v, s, e.Err)
	}
	if frac == "" {
		return time.Unix(sec, 0).UTC(), nil
	}
	for i := range len(frac) {
		if c := frac[i]; c < '0' || c > '9' {
			return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid nanoseconds: invalid character %q at position %d", v, c, i)
		}
	}
	if len(frac) > 20 {
		return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid nanoseconds: length %d exceeds maximum 20", v, len(frac))
	}
	nsec, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(sec, nsec).UTC(), nil
}

// Filters reads the API's filters parameter, in its map-of-lists form or the
// older map-of-maps.
func Filters(r *http.Request) (map[string][]string, error) {
	s := r.FormValue("filters")
	out := map[string][]string{}
	if s == "" {
		return out, nil
	}
	var m map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &m); err == nil {
		for k, vs := range m {
			out[k] = []string{}
			for v, on := range vs {
				if on {
					out[k] = append(out[k], v)
				}
			}
		}
		return out, nil
	}
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "invalid filter")
	}
	return out, nil
}

// Hijack takes the connection over. The caller closes it. The reader holds what
// the client sent early.
func Hijack(w http.ResponseWriter) (net.Conn, *bufio.Reader, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take over connection: %w", err)
	}
	return conn, rw.Reader, nil
}

// PlainError is an error that is told as text, as Docker does where the client
// expects a raw stream.
type PlainError struct{ Err error }

func (e PlainError) Error() string { return e.Err.Error() }
func (e PlainError) Unwrap() error { return e.Err }

// FlushWriter flushes after each write, for streams that a client watches.
type FlushWriter struct {
	W http.ResponseWriter
}

// Write implements io.Writer.
func (f FlushWriter) Write(p []byte) (int, error) {
	n, err := f.W.Write(p)
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(f.W).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return n, err
	}
	return n, nil
}
