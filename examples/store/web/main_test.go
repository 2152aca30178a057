package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"holdfast.dev/holdfast/examples/store/catalog"
	"holdfast.dev/holdfast/examples/store/serve/servetest"
)

func get(store *servetest.Store, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	newHandler(store).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func post(store *servetest.Store, form string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/products", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	newHandler(store).ServeHTTP(w, r)
	return w
}

func wants(t *testing.T, w *httptest.ResponseRecorder, code int, texts ...string) {
	t.Helper()
	if w.Code != code {
		t.Errorf("status %d, want %d", w.Code, code)
	}
	for _, s := range texts {
		if !strings.Contains(w.Body.String(), s) {
			t.Errorf("the page does not say %q:\n%s", s, body(w))
		}
	}
}

func wantsNot(t *testing.T, w *httptest.ResponseRecorder, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if strings.Contains(w.Body.String(), s) {
			t.Errorf("the page says %q:\n%s", s, body(w))
		}
	}
}

func body(w *httptest.ResponseRecorder) string {
	_, b, _ := strings.Cut(w.Body.String(), "<body>")
	return b
}

func TestAddingLeadsToAPageThatIsReadFromAStandby(t *testing.T) {
	store := &servetest.Store{}
	w := post(store, url.Values{"name": {" Chair <b> "}, "price": {"12,50"}}.Encode(), "Sec-Fetch-Site", "same-origin")
	wants(t, w, http.StatusSeeOther)
	to := w.Header().Get("Location")
	w = get(store, to)
	wants(t, w, http.StatusOK, `id="added"`, "<strong>Chair &lt;b&gt;</strong>", "12.50",
		"primary at <code>10.0.0.1</code>", "standby at <code>10.0.0.2</code>", `read from <span class="server">standby 10.0.0.2`)
	if store.Marks[len(store.Marks)-1] != "0/1A" {
		t.Errorf("%s was not read with the write's mark: %q", to, store.Marks)
	}
	wantsNot(t, get(store, "/"), `id="added"`)
	wantsNot(t, get(store, "/?added=99"), `id="added"`)
}

func TestMistakesInTheFormAreExplainedAndNothingIsLost(t *testing.T) {
	for form, want := range map[string]string{
		"name=&price=1":            "needs a name",
		"name=Lamp&price=x%22%3E":  "must be a number",
		"name=Lamp":                "must be a number",
		"name=Lamp&price=99999999": "at most 1000000.00",
		"name=" + strings.Repeat("a", 101) + "&price=1": "at most 100 letters",
	} {
		store := &servetest.Store{}
		w := post(store, form)
		wants(t, w, http.StatusUnprocessableEntity, `id="wrong"`, want)
		wantsNot(t, w, `value="x">"`)
		if len(store.Products) != 0 {
			t.Errorf("%q: a product was added", form)
		}
	}
	wants(t, post(&servetest.Store{}, "name=Lamp&price=x"), http.StatusUnprocessableEntity, `value="Lamp"`, `value="x"`)
	wants(t, post(&servetest.Store{}, "name="+strings.Repeat("a", maxForm)), http.StatusRequestEntityTooLarge, "could not be read")
}

func TestAnotherSiteCannotSendTheForm(t *testing.T) {
	store := &servetest.Store{}
	w := post(store, "name=x&price=1", "Sec-Fetch-Site", "cross-site")
	if w.Code != http.StatusForbidden || len(store.Products) != 0 {
		t.Errorf("status %d, %d products", w.Code, len(store.Products))
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("policy %q", csp)
	}
}

func TestThePageSaysWhoAnswered(t *testing.T) {
	store := &servetest.Store{ListFunc: func(context.Context, string) (catalog.Listing, error) {
		return catalog.Listing{Server: servetest.Primary, Note: "No standby answered."}, nil
	}}
	wants(t, get(store, "/"), http.StatusOK, `<span class="tag primary">primary</span>`, "No standby answered.", "There are none yet.")
}

func TestWithoutADatabaseThePageSaysSo(t *testing.T) {
	store := &servetest.Store{
		AddFunc: func(context.Context, string, int64) (catalog.Added, error) {
			return catalog.Added{}, errors.New("user=secret")
		},
		ListFunc: func(context.Context, string) (catalog.Listing, error) {
			return catalog.Listing{}, errors.New("user=secret")
		},
	}
	w := get(store, "/")
	wants(t, w, http.StatusServiceUnavailable, "No database answers")
	wantsNot(t, w, "secret")
	w = post(store, "name=Lamp&price=1")
	wants(t, w, http.StatusServiceUnavailable, "nothing was added", `value="Lamp"`)
	wantsNot(t, w, "secret")
}

func TestThereIsOnePage(t *testing.T) {
	if w := get(&servetest.Store{}, "/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("status %d", w.Code)
	}
}
