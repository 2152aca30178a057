package stackfile

import (
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	for name, c := range map[string]struct {
		src  []string
		want []string
	}{
		"fine": {src: []string{"services:", "  a:", "    image: x", "    ports:", "      - '80:80'", "    command: -x", "    x-own: 1", "    deploy:", "      mode: global"}},
		// The two misprints of the course's notes.
		"node for mode": {
			src:  []string{"services:", "  db-slave:", "    deploy:", "      node: global # Will run on all the nodes"},
			want: []string{`f.yml:4:7: there is no key "node" in services.db-slave.deploy (did you mean mode?)`},
		},
		"no blank": {
			src:  []string{"services:", "  api:", "    ports:", "      -'8085:80'", "    networks:", "      - store-net"},
			want: []string{`f.yml:4:7: -'8085:80' is no item of a list: a dash needs a blank after it (did you mean - '8085:80'?)`},
		},
		"no blank, no quotes": {
			src:  []string{"services:", "  api:", "    volumes:", "      -data:/data"},
			want: []string{`f.yml:4:7: -data:/data is no item of a list: a dash needs a blank after it (did you mean - data:/data?)`},
		},
		"no blank, a mapping": {
			src:  []string{"services:", "  api:", "    ports:", "      -target: 80"},
			want: []string{`f.yml:4:7: -target: 80 is no item of a list: a dash needs a blank after it (did you mean - target: 80?)`},
		},
		"no blank where YAML stumbles": {
			src:  []string{"services:", "  api:", "    ports:", "      - '1:1'", "      -'8085:80'"},
			want: []string{`f.yml:5:7: -'8085:80' is no item of a list: a dash needs a blank after it (did you mean - '8085:80'?)`},
		},
		"at the top":     {src: []string{"service:", "  a: {image: x}"}, want: []string{`f.yml:1:1: there is no key "service" at the top of a compose file (did you mean services?)`}},
		"of a service":   {src: []string{"services: {a: {imgae: x, zzzzzz: 1}}"}, want: []string{`f.yml:1:16: there is no key "imgae" in services.a (did you mean image?)`, `f.yml:1:26: there is no key "zzzzzz" in services.a`}},
		"of an item":     {src: []string{"services: {a: {ports: [{target: 80, publish: 80}]}}"}, want: []string{`f.yml:1:37: there is no key "publish" in services.a.ports[0] (did you mean published?)`}},
		"of a network":   {src: []string{"networks: {n: {drivr: overlay}}"}, want: []string{`f.yml:1:16: there is no key "drivr" in networks.n (did you mean driver?)`}},
		"names are free": {src: []string{"services: {node: {image: x, labels: {node: 1}, environment: {node: 1}, logging: {options: {node: 1}}}}", "volumes: {node: {driver_opts: {node: 1}}}"}},
		"merged":         {src: []string{"x-a: &a {deplyo: 1}", "services: {a: {<<: *a, image: x}, b: *a}"}},
		"taken back":     {src: []string{"services: {a: {ports: !reset null, deploy: !override {mode: global}}}"}},
		"not YAML":       {src: []string{"services:", "  a: {image: x", "  b: 1"}, want: []string{"f.yml:"}},
		"nothing":        {src: []string{""}},
		"a list":         {src: []string{"- a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Lint("f.yml", []byte(strings.Join(c.src, "\n")))
			if len(got) != len(c.want) {
				t.Fatalf("got %d:\n%v", len(got), got)
			}
			for i, w := range c.want {
				if g := got[i].Error(); !strings.HasPrefix(g, w) || (w != "f.yml:" && g != w) {
					t.Errorf("got %s\nwant %s", g, w)
				}
			}
		})
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"node", "mode", 1}, {"imgae", "image", 1}, {"kitten", "sitting", 3}, {"abc", "abc", 0}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s to %s is %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
