// Command web is the store's page. It works without JavaScript.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"holdfast.dev/holdfast/examples/store/catalog"
	"holdfast.dev/holdfast/examples/store/serve"
)

const maxForm = 16 << 10

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"when": func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
	"iso":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).Parse(pageText))

func main() { os.Exit(serve.Main(os.Args, newHandler)) }

// view is what the page shows.
type view struct {
	catalog.Listing
	Host string // of this page's own container
	// Added is the product just added, as the list shows it.
	Added *catalog.Product
	// The form, as it was sent, and what is wrong with it.
	Name, Price, Wrong string
	Down               bool // no database answers
}

type web struct {
	store serve.Store
	host  string
}

func newHandler(store serve.Store) http.Handler {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	s := web{store, host}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /products", s.add)
	// Another site's page cannot send this form.
	return headers(http.NewCrossOriginProtection().Handler(mux))
}

func headers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

func (s web) show(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, r.URL.Query().Get("after"), view{})
}

// add writes to the primary and sends the browser to a page that is read from a
// standby, so that loading it again adds nothing.
func (s web) add(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		status := http.StatusBadRequest
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		s.render(w, r, status, "", view{Wrong: "This form could not be read."})
		return
	}
	v := view{Name: r.PostFormValue("name"), Price: r.PostFormValue("price")}
	name, err := catalog.CheckName(v.Name)
	var cents int64
	if err == nil {
		cents, err = catalog.ParsePrice(v.Price)
	}
	var added catalog.Added
	if err == nil {
		added, err = s.store.Add(r.Context(), name, cents)
	}
	if text, ok := serve.Input(err); ok {
		v.Wrong = text
		s.render(w, r, http.StatusUnprocessableEntity, "", v)
		return
	}
	if err != nil {
		serve.Failed(r, err)
		v.Wrong = "The primary does not answer, so nothing was added. Try again in a moment."
		s.render(w, r, http.StatusServiceUnavailable, "", v)
		return
	}
	to := url.Values{"added": {strconv.FormatInt(added.Product.ID, 10)}, "after": {added.Mark}}
	http.Redirect(w, r, "/?"+to.Encode(), http.StatusSeeOther)
}

func (s web) render(w http.ResponseWriter, r *http.Request, status int, mark string, v view) {
	v.Host = s.host
	l, err := s.store.List(r.Context(), mark)
	if err != nil {
		serve.Failed(r, err)
		v.Down = true
		if status == http.StatusOK {
			status = http.StatusServiceUnavailable
		}
	}
	v.Listing = l
	for i, p := range l.Products {
		if strconv.FormatInt(p.ID, 10) == r.URL.Query().Get("added") {
			v.Added = &l.Products[i]
		}
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		serve.Failed(r, err)
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // the client has gone
}
