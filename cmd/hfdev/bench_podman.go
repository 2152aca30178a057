package main

import (
	"path/filepath"

	"holdfast.dev/holdfast/internal/testkit"
)

// podman runs in the namespaces of a daemon that is never started, with its
// state below that daemon's folder.
type podman struct {
	d    *testkit.Daemon
	args []string
}

func newPodman(t testkit.TB) *podman {
	t.Helper()
	d := testkit.New(t, testkit.Options{Bare: true, Stopped: true})
	p := &podman{d: d, args: []string{
		"podman", "--root", filepath.Join(d.Dir(), "pod"), "--runroot", filepath.Join(d.Dir(), "podrun"),
		"--tmpdir", filepath.Join(d.Dir(), "podtmp"), "--cgroup-manager", "cgroupfs", "--events-backend", "none",
	}}
	file := filepath.Join(d.Dir(), "busybox.tar")
	spec := testkit.ImageSpec{
		Ref: "busybox:latest", Layers: [][]byte{testkit.BusyboxLayer(t)},
		Config: map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/bin"}},
	}
	if err := writeFile(file, spec.Archive()); err != nil {
		t.Fatalf("write image for podman: %v", err)
	}
	p.do("load", "-q", "-i", file)
	return p
}

func (p *podman) do(args ...string) string {
	all := append(append([]string{}, p.args[1:]...), args...)
	return p.d.Exec(p.args[0], all...)
}
