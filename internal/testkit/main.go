package testkit

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
)

// mainTB lets a TestMain, or a program that is no test, own a daemon.
type mainTB struct {
	name string

	mu       sync.Mutex // guards what follows
	failed   bool
	skipped  string
	cleanups []func()
}

func (m *mainTB) Helper()      {}
func (m *mainTB) Name() string { return m.name }

func (m *mainTB) Failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func (m *mainTB) Cleanup(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cleanups = append(m.cleanups, f)
}

func (m *mainTB) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", m.name, fmt.Sprintf(format, args...))
}

func (m *mainTB) Errorf(format string, args ...any) {
	m.Logf(format, args...)
	m.mu.Lock()
	m.failed = true
	m.mu.Unlock()
}

func (m *mainTB) Fatalf(format string, args ...any) {
	m.Errorf(format, args...)
	runtime.Goexit()
}

func (m *mainTB) Skipf(format string, args ...any) {
	m.mu.Lock()
	m.skipped = fmt.Sprintf(format, args...)
	m.mu.Unlock()
	runtime.Goexit()
}

// run calls f on a goroutine that Fatalf and Skipf may end.
func (m *mainTB) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

func (m *mainTB) runCleanups() {
	for {
		m.mu.Lock()
		n := len(m.cleanups)
		if n == 0 {
			m.mu.Unlock()
			return
		}
		f := m.cleanups[n-1]
		m.cleanups = m.cleanups[:n-1]
		m.mu.Unlock()
		m.run(f)
	}
}

// Shared is a daemon that all tests of a package use, one after the other. It is
// started by the first test that asks.
type Shared struct {
	opts Options
	tb   *mainTB
	once sync.Once
	d    *Daemon
}

// RunMain runs a package's tests with a shared daemon and returns the exit code.
// set receives the shared daemon before the tests start.
func RunMain(m *testing.M, name string, o Options, set func(*Shared)) int {
	s := &Shared{opts: o, tb: &mainTB{name: name}}
	set(s)
	code := m.Run()
	s.tb.runCleanups()
	if code == 0 && s.tb.Failed() {
		return 1
	}
	return code
}

// For is the shared daemon for one test; see Daemon.For.
func (s *Shared) For(t TB) *Daemon {
	t.Helper()
	s.once.Do(func() { s.tb.run(func() { s.d = New(s.tb, s.opts) }) })
	if s.d == nil {
		if s.tb.skipped != "" {
			t.Skipf("%s", s.tb.skipped)
		}
		t.Fatalf("the shared daemon did not start")
	}
	return s.d.For(t)
}

// RunProgram runs f, which is no test, with the kit; it tells whether f failed.
func RunProgram(name string, f func(t TB)) (failed bool) {
	m := &mainTB{name: name}
	m.run(func() { f(m) })
	m.runCleanups()
	if m.skipped != "" {
		m.Logf("%s", m.skipped)
		return true
	}
	return m.Failed()
}
