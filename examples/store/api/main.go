// Command api is the store's interface for programs: JSON over HTTP.
package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"

	"holdfast.dev/holdfast/examples/store/catalog"
	"holdfast.dev/holdfast/examples/store/serve"
)

const maxBody = 64 << 10

func main() { os.Exit(serve.Main(os.Args, newHandler)) }

type api struct{ store serve.Store }

func newHandler(store serve.Store) http.Handler {
	a := api{store}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products", a.list)
	mux.HandleFunc("POST /products", a.add)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"products": "/products", "health": "/healthz", "ready": "/readyz"})
	})
	return mux
}

// list answers with the newest products. With ?after=MARK it waits a little for
// a standby to show what was written at MARK.
func (a api) list(w http.ResponseWriter, r *http.Request) {
	l, err := a.store.List(r.Context(), r.URL.Query().Get("after"))
	if err != nil {
		fail(w, r, err)
		return
	}
	if l.Products == nil {
		l.Products = []catalog.Product{}
	}
	reply(w, http.StatusOK, l)
}

func (a api) add(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name  string          `json:"name"`
		Cents json.RawMessage `json:"cents"`
	}
	var cents int64
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(&in)
	if err == nil {
		err = json.Unmarshal(in.Cents, &cents)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		reply(w, http.StatusRequestEntityTooLarge, message("The request is too large."))
		return
	case err != nil:
		reply(w, http.StatusBadRequest, message(`Want JSON such as {"name": "Lamp", "cents": 3950}.`))
		return
	}
	added, err := a.store.Add(r.Context(), in.Name, cents)
	if err != nil {
		fail(w, r, err)
		return
	}
	reply(w, http.StatusCreated, added)
}

func message(text string) map[string]string { return map[string]string{"message": text} }

func fail(w http.ResponseWriter, r *http.Request, err error) {
	if text, ok := serve.Input(err); ok {
		reply(w, http.StatusUnprocessableEntity, message(text))
		return
	}
	serve.Failed(r, err)
	reply(w, http.StatusServiceUnavailable, message("The database does not answer. Try again in a moment."))
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client has gone
}
