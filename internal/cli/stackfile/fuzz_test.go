package stackfile

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad: what compose understands docker's client understands in its form, and
// nothing makes either fall over.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"services: {a: {image: x, ports: ['80:80', '1-2:1-2/udp'], depends_on: [b], healthcheck: {test: 'true', start_interval: 1s}}, b: {image: y, network_mode: host}}",
		"name: p\nservices: {a: {image: x, restart: 'on-failure:2', cpus: 0.5, volumes: ['v:/v', '/a:/b:ro'], tmpfs: /t, extra_hosts: ['a:1.2.3.4']}}\nvolumes: {v: }",
		"services: {a: {image: x, secrets: [s], configs: [{source: c, mode: 0444}]}}\nsecrets: {s: {file: ./s}}\nconfigs: {c: {content: hello}}",
		"services: {a: {image: x, deploy: {node: global}, ports: -'80:80'}}",
		"x: &a {b: *a}", "services:\n  -'a'", "a: b: c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		_ = Lint("f", []byte(src)) // any answer will do
		dir := t.TempDir()
		file := filepath.Join(dir, "f.yml")
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(context.Background(), Request{Stack: "p", Files: []string{file}, Scratch: dir})
		if err != nil {
			return
		}
		if _, err := s.YAML(); err != nil {
			t.Fatal(err)
		}
		_ = docker(s.Model) // what only docker refuses is told by it; it must not fall over
	})
}
