package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// debugBody is the largest request body that the debug log shows.
const debugBody = 4096

func badForm(err error) error {
	return fault.New(errdefs.ErrInvalidArgument, "%s", err)
}

// logRequest writes the request to the debug log, secrets masked.
func (s *Server) logRequest(r *http.Request) {
	if !s.o.Log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	args := []any{logkey.Method, r.Method, logkey.Path, maskQuery(r.URL.RequestURI())}
	if body, ok := peekJSON(r); ok {
		args = append(args, logkey.Body, body)
	}
	s.o.Log.Debug("API request", args...)
}

// peekJSON returns a small JSON body with secrets masked; r can still be read.
func peekJSON(r *http.Request) (string, bool) {
	mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	// An unknown length may be a stream that comes later: peeking would wait for it.
	if err != nil || mt != "application/json" || r.ContentLength <= 0 || r.ContentLength > debugBody {
		return "", false
	}
	rest := r.Body
	data, err := io.ReadAll(io.LimitReader(rest, debugBody))
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), rest), rest}
	if err != nil {
		return "", false
	}
	var v any
	if json.Unmarshal(data, &v) != nil {
		return "", false
	}
	out, err := json.Marshal(mask(v))
	return string(out), err == nil
}

const masked = "*****"

// secretKey reports whether a JSON field of that name holds what no log may.
func secretKey(k string) bool {
	switch strings.ToLower(k) {
	case "password", "secret", "data", "auth", "identitytoken", "registrytoken", "jointoken", "unlockkey", "signingcakey":
		return true
	}
	return false
}

func mask(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			switch {
			case secretKey(k):
				v[k] = masked
			case strings.EqualFold(k, "env"):
				v[k] = maskEnv(x)
			default:
				v[k] = mask(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = mask(v[i])
		}
	}
	return v
}

// maskEnv keeps the names of environment variables and hides the values: that
// is where database passwords travel.
func maskEnv(v any) any {
	list, ok := v.([]any)
	if !ok {
		return mask(v)
	}
	for i, e := range list {
		s, ok := e.(string)
		if !ok {
			continue
		}
		if name, _, set := strings.Cut(s, "="); set {
			list[i] = name + "=" + masked
		}
	}
	return list
}

// maskQuery hides nothing but build arguments, the one query value that carries secrets.
func maskQuery(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok || !strings.Contains(query, "buildargs=") {
		return uri
	}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		if strings.HasPrefix(p, "buildargs=") {
			parts[i] = "buildargs=" + masked
		}
	}
	return path + "?" + strings.Join(parts, "&")
}
