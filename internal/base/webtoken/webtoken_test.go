package webtoken

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestTokenIsRequired(t *testing.T) {
	var seen []string
	srv := httptest.NewServer(Require("right", "cookie", "ask <somebody>", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.String())
	})))
	defer srv.Close()
	browser := func() *http.Client {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Jar: jar}
	}
	do := func(c *http.Client, r *http.Request, err error) (*http.Response, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	get := func(c *http.Client, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		resp, body := do(c, r, err)
		return resp.StatusCode, body
	}
	post := func(c *http.Client, path string, form url.Values, headers ...string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		return do(c, r, err)
	}
	stranger := browser()
	for _, path := range []string{"/", "/?token=wrong", "/?token=", "/static/style.css", "/token"} {
		code, body := get(stranger, path)
		if code != http.StatusUnauthorized || !strings.Contains(body, "ask &lt;somebody&gt;") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/prune?token=right", "/prune", "/token"} {
		if resp, _ := post(stranger, path, url.Values{"token": {"wrong"}}); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if resp, _ := post(stranger, "/token", url.Values{"token": {strings.Repeat("x", maxForm)}}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("an endless form: %d", resp.StatusCode)
	}
	if len(seen) > 0 {
		t.Fatalf("answered without a token: %v", seen)
	}

	byAddress, byForm := browser(), browser()
	if code, _ := get(byAddress, "/?token=right"); code != http.StatusOK {
		t.Errorf("with the token in the address: %d", code)
	}
	resp, _ := post(byForm, "/token", url.Values{"token": {" right\n"}})
	if resp.StatusCode != http.StatusOK || resp.Request.URL.String() != srv.URL+"/" {
		t.Errorf("with the token in the form: %d at %s", resp.StatusCode, resp.Request.URL)
	}
	noFollow := *byForm
	noFollow.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, _ = post(&noFollow, "/token", url.Values{"token": {"right"}})
	if resp.StatusCode == http.StatusSeeOther {
		t.Error("who is in is asked again") // it goes to the pages, as any other path
	}
	if code, _ := get(byForm, "/static/style.css"); code != http.StatusOK {
		t.Errorf("with the cookie: %d", code)
	}
	// Another site's form, sent by a browser that has the cookie all the same.
	n := len(seen)
	if resp, _ := post(byForm, "/prune", url.Values{}, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", resp.StatusCode)
	}
	if resp, _ := post(byForm, "/prune", url.Values{}, "Origin", "http://elsewhere.example"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another origin: %d", resp.StatusCode)
	}
	if len(seen) != n {
		t.Errorf("answered another site: %v", seen[n:])
	}
	if resp, _ := post(byForm, "/prune", url.Values{}, "Sec-Fetch-Site", "same-origin"); resp.StatusCode != http.StatusOK {
		t.Errorf("the page's own form: %d", resp.StatusCode)
	}
}

func TestCookie(t *testing.T) {
	w := httptest.NewRecorder()
	Require("right", "cookie", "", http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?token=right", nil))
	c := w.Result().Cookies()
	if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode || c[0].Secure {
		t.Errorf("%+v", c)
	}
	w = httptest.NewRecorder()
	Require("right", "cookie", "", http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://x/?token=right", nil))
	if c := w.Result().Cookies(); len(c) != 1 || !c[0].Secure {
		t.Errorf("over TLS: %+v", c)
	}
}
