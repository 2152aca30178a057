package cli

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestDashboardWantsItsToken(t *testing.T) {
	var seen []string
	srv := httptest.NewServer(withToken("right", "cookie", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.String())
	})))
	defer srv.Close()
	stranger := &http.Client{}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	get := func(c *http.Client, path string) int {
		t.Helper()
		resp, err := c.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		return resp.StatusCode
	}
	for _, path := range []string{"/", "/?token=wrong", "/?token=", "/static/style.css"} {
		if code := get(stranger, path); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, code)
		}
	}
	if resp, err := stranger.PostForm(srv.URL+"/prune?token=right", url.Values{}); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a form with the token in its address: %v %v", resp, err)
	}
	if len(seen) > 0 {
		t.Errorf("answered without a token: %v", seen)
	}
	if code := get(browser, "/?token=right"); code != http.StatusOK {
		t.Errorf("with the token: %d", code)
	}
	if code := get(browser, "/static/style.css"); code != http.StatusOK {
		t.Errorf("with the cookie: %d", code)
	}
	if len(seen) != 2 || seen[0] != "GET /" {
		t.Errorf("%v", seen)
	}
}
