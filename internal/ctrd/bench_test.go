package ctrd

import (
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/container"
)

// BenchmarkTask reports where the time of a short container goes.
func BenchmarkTask(b *testing.B) {
	m := newMachine(b)
	var create, start, exit, remove time.Duration
	for b.Loop() {
		id := m.id()
		t0 := time.Now()
		_, s := m.create(container.TaskConfig{ID: id, Spec: m.spec(id, "/bin/busybox", "true")})
		t1 := time.Now()
		if err := m.rt().Start(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		m.wait(id, "")
		t3 := time.Now()
		m.delete(id)
		t4 := time.Now()
		s.Close()
		create += t1.Sub(t0)
		start += t2.Sub(t1)
		exit += t3.Sub(t2)
		remove += t4.Sub(t3)
	}
	for name, d := range map[string]time.Duration{"create": create, "start": start, "exit": exit, "delete": remove} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms")
	}
}

// BenchmarkLayer reports what the writable layer costs.
func BenchmarkLayer(b *testing.B) {
	m := newMachine(b)
	var prepare, mount, remove time.Duration
	parent := m.commitTree("base", "", map[string]string{"a": "1"})
	fs := m.engine.Rootfs()
	for b.Loop() {
		id := m.id()
		t0 := time.Now()
		if err := fs.Prepare(b.Context(), id, parent); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if _, err := fs.Mount(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if err := fs.Remove(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		prepare += t1.Sub(t0)
		mount += t2.Sub(t1)
		remove += time.Since(t2)
	}
	for name, d := range map[string]time.Duration{"prepare": prepare, "mount": mount, "remove": remove} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms")
	}
}
