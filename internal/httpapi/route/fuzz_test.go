package route

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func FuzzFilters(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `null`, `{"label":["a=b","c"]}`, `{"label":{"a=b":true,"c":false}}`, `{"a":null}`, `{"a":[null]}`, `[]`, `{"a":"b"}`, `{"a":{"b":1}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x?"+url.Values{"filters": {s}}.Encode(), nil)
		got, err := Filters(r)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		// What was read, written in the newer form, is read as the same.
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Filters(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x?"+url.Values{"filters": {string(b)}}.Encode(), nil))
		if err != nil || len(again) != len(got) {
			t.Fatalf("%q is %v, then %v, %v", s, got, again, err)
		}
		for k, v := range got {
			if !slices.Equal(v, again[k]) {
				t.Errorf("%q is %v, then %v", s, got, again)
			}
		}
	})
}

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"", "0", "1136073600.000000001", "-1.5", ".5", "1.", "99999999999999999999", "1.12345678901234567890", "1e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := Timestamp(s); err == nil && s != "" && v.Location().String() != "UTC" {
			t.Errorf("%q is %v", s, v)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("application/json", `{"Name":"a"}`)
	f.Add("application/json; charset=utf-8", `{"Name":"a"} x`)
	f.Add("text/plain", ``)
	f.Add("", `[`)
	f.Fuzz(func(t *testing.T, kind, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x", strings.NewReader(body))
		r.Header["Content-Type"] = []string{kind}
		var v struct {
			Name string
			Map  map[string][]string
		}
		if err := Decode(r, &v, false); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
		}
	})
}
