package httpapi

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
)

// response remembers whether and how the handler answered. Unwrap lets
// http.ResponseController find the rest of the real writer.
type response struct {
	http.ResponseWriter
	status    int // 0: nothing written yet
	hijacked  bool
	streaming atomic.Bool // flushed or hijacked; read by the shutdown
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher for handlers that ask for it directly.
func (w *response) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.streaming.Store(true)
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Hijack implements http.Hijacker.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.hijacked = true
		w.streaming.Store(true)
	}
	return conn, rw, err
}
