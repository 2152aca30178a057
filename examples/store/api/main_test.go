package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast.dev/holdfast/examples/store/catalog"
	"holdfast.dev/holdfast/examples/store/serve/servetest"
)

func do(t *testing.T, store *servetest.Store, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	newHandler(store).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s %s: content type %q", method, path, ct)
	}
	return w.Code, w.Body.String()
}

func TestAProductIsAddedAndListed(t *testing.T) {
	store := &servetest.Store{}
	code, body := do(t, store, "POST", "/products", `{"name":"Lamp","cents":3950}`)
	var added catalog.Added
	if err := json.Unmarshal([]byte(body), &added); err != nil || code != http.StatusCreated {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if added.Product.Name != "Lamp" || added.Product.Cents != 3950 || added.Server != servetest.Primary {
		t.Errorf("added %+v", added)
	}
	code, body = do(t, store, "GET", "/products?after="+added.Mark, "")
	var l catalog.Listing
	if err := json.Unmarshal([]byte(body), &l); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if len(l.Products) != 1 || l.Products[0].ReadFrom != servetest.Standby || l.Server != servetest.Standby {
		t.Errorf("listed %+v", l)
	}
	if len(store.Marks) != 1 || store.Marks[0] != "0/1A" {
		t.Errorf("asked for marks %q", store.Marks)
	}
}

func TestNoProductsAreAnEmptyList(t *testing.T) {
	if _, body := do(t, &servetest.Store{}, "GET", "/products", ""); !strings.Contains(body, `"products": []`) {
		t.Error(body)
	}
}

func TestBadRequestsAddNothing(t *testing.T) {
	for body, want := range map[string]int{
		``:                                   http.StatusBadRequest,
		`{`:                                  http.StatusBadRequest,
		`[]`:                                 http.StatusBadRequest,
		`{"name":"x"}`:                       http.StatusBadRequest,
		`{"name":"x","cents":"1"}`:           http.StatusBadRequest,
		`{"name":"x","cents":1.5}`:           http.StatusBadRequest,
		`{"name":"x","cents":1,"more":true}`: http.StatusBadRequest,
		`{"name":"` + strings.Repeat("x", maxBody) + `","cents":1}`: http.StatusRequestEntityTooLarge,
	} {
		store := &servetest.Store{}
		code, reply := do(t, store, "POST", "/products", body)
		if code != want || !strings.Contains(reply, "message") || len(store.Products) != 0 {
			t.Errorf("%.40q: %d %s, %d products", body, code, reply, len(store.Products))
		}
	}
}

func TestFailuresSayWhatTheClientMayKnow(t *testing.T) {
	store := &servetest.Store{
		AddFunc: func(context.Context, string, int64) (catalog.Added, error) {
			return catalog.Added{}, &catalog.InputError{Text: "The product needs a name."}
		},
		ListFunc: func(context.Context, string) (catalog.Listing, error) {
			return catalog.Listing{}, errors.New("user=secret")
		},
	}
	if code, body := do(t, store, "POST", "/products", `{"name":"","cents":1}`); code != http.StatusUnprocessableEntity || !strings.Contains(body, "needs a name") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := do(t, store, "GET", "/products", ""); code != http.StatusServiceUnavailable || strings.Contains(body, "secret") {
		t.Errorf("%d %s", code, body)
	}
}
