// Package webtoken lets only browsers in that were given a token, by an address
// that holds it or by a form.
package webtoken

import (
	"crypto/subtle"
	"fmt"
	"html"
	"net/http"
	"strings"
)

// maxForm bounds what somebody without a token may send.
const maxForm = 4096

// Require answers with next where the token was given. It is kept in a cookie of
// this name, which scripts cannot read and other sites' pages do not send; what
// other sites' pages send is refused besides. where tells people the token's place.
func Require(token, cookie, where string, next http.Handler) http.Handler {
	is := func(given string) bool { return subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 1 }
	enter := func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{
			Name: cookie, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
		})
		// The token leaves the address, and with it the browser's history.
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-store")
		c, err := r.Cookie(cookie)
		switch {
		case r.Method == http.MethodGet && is(r.URL.Query().Get("token")):
			enter(w, r)
		case err == nil && is(c.Value):
			next.ServeHTTP(w, r)
		case r.Method == http.MethodPost && r.URL.Path == "/token":
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if given := strings.TrimSpace(r.PostFormValue("token")); is(given) {
				enter(w, r)
				return
			}
			ask(w, "That is not the token.", where)
		default:
			ask(w, "", where)
		}
	})
	return http.NewCrossOriginProtection().Handler(guarded)
}

// ask shows the form that takes the token.
func ask(w http.ResponseWriter, note, where string) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusUnauthorized)
	// The client may have gone: nobody is left to tell.
	_, _ = fmt.Fprintf(w, `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"><title>Holdfast</title></head>
<body><h1>Holdfast</h1><p role="alert">%s</p><p>This address needs a token: %s.</p>
<form method="post" action="/token"><label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label> <button type="submit">Go on</button></form>
</body></html>
`, html.EscapeString(note), html.EscapeString(where))
}
