package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

const (
	targetRebuild   = 0.6
	targetColdBuild = 1.0
)

// threeStages is a Go image as people write it: what is needed, the build, the
// image. The program is small, so that the engine's part can be seen beside the
// compiler's.
var threeStages = map[string]string{
	"Dockerfile": `FROM golang:1 AS source
WORKDIR /src
COPY go.mod ./
RUN go mod download
COPY . .

FROM source AS build
RUN CGO_ENABLED=0 go build -trimpath -o /out/hello .

FROM busybox
COPY --from=build /out/hello /bin/hello
CMD ["hello"]
`,
	"go.mod":  "module example.com/hello\n\ngo 1.24\n",
	"main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n",
}

// builder builds with one engine.
type builder struct {
	name  string
	build func(dir string, args ...string)
}

// builders are the engines with the same client, buildx, and buildah, which is its
// own. Each gets Go as a base image.
func (b *bench) builders() []builder {
	b.t.Helper()
	if b.built != nil {
		return b.built
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	must(err)
	buildx := func(d *testkit.Daemon, name string) builder {
		program := testkit.RequireBin(b.t, "cli-plugins/docker-buildx")
		return builder{name: name, build: func(dir string, args ...string) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			cmd := d.Command(ctx, program, append(append([]string{"build"}, args...), dir)...)
			// dockerd's old BuildKit knows none, so nobody makes them.
			cmd.Env = append(cmd.Env, "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.t.Fatalf("%s: %v: %s", cmd, err, out)
			}
		}}
	}
	b.built = []builder{buildx(b.ours, "Holdfast")}
	if b.docker != nil {
		b.built = append(b.built, buildx(b.docker, "Docker"))
	}
	if _, err := exec.LookPath("buildah"); err != nil || b.podman == nil {
		b.skip("buildah", "buildah and podman are not installed (Debian packages of these names)")
	} else {
		b.built = append(b.built, b.podman.builder())
	}
	for _, e := range b.built {
		e.build(strings.TrimSpace(string(goroot)), "-f", filepath.Join(testkit.RepoRoot(), "examples", "base", "golang", "Dockerfile"),
			"--build-arg", "BASE=busybox", "-t", "golang:1")
	}
	return b.built
}

// builds measures one build on all engines.
func (b *bench) builds(what string, target float64, n int, dir string, args ...string) {
	b.t.Helper()
	engines := b.builders()
	var sides []func() float64
	for _, e := range engines {
		sides = append(sides, func() float64 { return timed(func() { e.build(dir, args...) }) })
	}
	s := b.pairs(n, sides...)
	if len(engines) == 1 {
		b.rows = append(b.rows, row{what: what, unit: milliseconds, ours: s[0], target: target})
	}
	for i, e := range engines[1:] {
		r := row{what: what, unit: milliseconds, ours: s[0], peer: s[i+1], name: e.name}
		if e.name == "Docker" {
			r.target = target
		}
		b.rows = append(b.rows, r)
	}
}

// coldBuild runs every step.
func (b *bench) coldBuild() {
	b.t.Helper()
	dir := filepath.Join(b.ours.Dir(), "three-stages")
	must(os.Mkdir(dir, 0o755))
	for name, text := range threeStages {
		must(writeFile(filepath.Join(dir, name), []byte(text)))
	}
	b.builds("cold build of a Go image in three stages", targetColdBuild, b.count(7, 3), dir, "--no-cache", "-t", "hello")
}

// rebuild runs none.
func (b *bench) rebuild() {
	b.t.Helper()
	store := filepath.Join(testkit.RepoRoot(), "examples", "store")
	if out, err := exec.Command(filepath.Join(store, "modules.sh")).CombinedOutput(); err != nil {
		b.skip("rebuild of the store", "its modules are not to be had: "+strings.TrimSpace(string(out)))
		return
	}
	b.builds("rebuild of the store's page with nothing changed", targetRebuild, b.count(15, 5), store,
		"-f", filepath.Join(store, "docker", "web", "Dockerfile"), "-t", "psodstorage/store-web")
}

// builder is buildah on podman's storage. What it keeps in cache mounts goes with
// that.
func (p *podman) builder() builder {
	return builder{name: "buildah", build: func(dir string, args ...string) {
		all := []string{"TMPDIR=" + p.d.Dir(), "buildah"}
		all = append(append(all, p.args[1:5]...), "build", "--isolation", "chroot", "--layers", "-q")
		p.d.Exec("env", append(append(all, args...), dir)...)
	}}
}
