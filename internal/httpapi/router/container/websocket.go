package container

import (
	"context"
	"net/http"

	"golang.org/x/net/websocket"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// attachWebsocket is attach for browsers. Streams are not multiplexed.
func (rt *Router) attachWebsocket(w http.ResponseWriter, r *http.Request) error {
	// Unknown containers get their answer before the connection changes hands.
	if _, err := rt.containers.IsTTY(r.Context(), name(r)); err != nil {
		return err
	}
	chosen := route.AtLeast(r.Context(), "1.42")
	wants := func(key string) bool { return !chosen || route.Bool(r, key) }
	serve := func(conn *websocket.Conn) { //nolint:contextcheck // it is the request's
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if route.AtLeast(ctx, "1.28") {
			conn.PayloadType = websocket.BinaryFrame
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		o := domain.AttachOptions{
			Logs:       route.Bool(r, "logs"),
			Stream:     route.Bool(r, "stream"),
			DetachKeys: r.FormValue("detachKeys"),
			Started:    func() error { return nil },
		}
		o.Stdout, o.Stderr = outputs(conn, false, wants("stdout"), wants("stderr"))
		if wants("stdin") {
			o.Stdin = conn
		}
		if err := rt.containers.Attach(ctx, name(r), o); err != nil && ctx.Err() == nil {
			_, _ = conn.Write([]byte("Error attaching: " + err.Error() + "\r\n"))
		}
	}
	websocket.Server{Handler: serve}.ServeHTTP(w, r)
	return nil
}
