package analyze

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestStepOf(t *testing.T) {
	for _, c := range []struct{ in, verb, text string }{
		{"RUN /bin/sh -c apt-get update # buildkit", "RUN", "/bin/sh -c apt-get update"},
		{"RUN |1 A=1 /bin/sh -c make # buildkit", "RUN", "|1 A=1 /bin/sh -c make"},
		{"COPY . /app # buildkit", "COPY", ". /app"},
		{"ADD rootfs.tar / # buildkit", "ADD", "rootfs.tar /"},
		{"/bin/sh -c apt-get update", "RUN", "/bin/sh -c apt-get update"},
		{"|1 A=1 /bin/sh -c make", "RUN", "|1 A=1 /bin/sh -c make"},
		{"/bin/sh -c #(nop) COPY dir:0123 in /app ", "COPY", "dir:0123 in /app"},
		{"/bin/sh -c #(nop)  CMD [\"sh\"]", "", "CMD [\"sh\"]"},
		{"sh", "", "sh"},
		{"", "", ""},
	} {
		if got := stepOf(c.in); got != (step{c.verb, c.text}) {
			t.Errorf("%q: %+v", c.in, got)
		}
	}
}

func TestKindOf(t *testing.T) {
	for path, want := range map[string]string{
		"var/lib/apt/lists/x_Packages": "apt-lists", "var/lib/apt/listsx": "", "srv/app/.git/objects/pack/x": "vcs-history",
		".git/objects/x": "vcs-history", "srv/.gitignore": "", "tmp/x": "tmp", "srv/tmp/x": "", "usr/lib/go-1.24/x": "build-tools",
	} {
		if got := kindOf(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestAdvice(t *testing.T) {
	const mb = 1 << 20
	const apt, clean = "RUN /bin/sh -c apt-get update # buildkit", "RUN /bin/sh -c rm -rf /var # buildkit"
	for _, c := range []struct {
		name  string
		steps []string
		pairs []Pair
		kinds []Kind
		more  func(*Report)
		want  []string // rule layers bytes
		text  string   // in the first one
	}{
		{name: "nothing to say", steps: []string{apt, clean}},
		{name: "RUNs", steps: []string{apt, "COPY a b", clean}, pairs: []Pair{{1, 3, Deleted, 1, mb}, {1, 3, Overwritten, 1, mb}}, want: []string{"merge-runs [1 3] 2097152"}, text: "Merge the RUNs of layers 1 and 3: layer 3 deletes or overwrites 2.097MB"},
		{name: "RUNs, a little", steps: []string{apt, clean}, pairs: []Pair{{1, 2, Deleted, 1, mb / 4}, {1, 2, Overwritten, 1, mb / 4}}},
		{name: "RUN over a base of unknown making", steps: []string{"debian", clean}, pairs: []Pair{{1, 2, Deleted, 1, mb}}},
		{name: "COPY and rm", steps: []string{"COPY . /src # buildkit", clean}, pairs: []Pair{{1, 2, Deleted, 1, mb}}, want: []string{"do-not-copy [1 2] 1048576"}, text: ".dockerignore"},
		{name: "RUN and COPY over it", steps: []string{apt, "COPY a /a"}, pairs: []Pair{{1, 2, Overwritten, 1, mb}}},
		{name: "chown", steps: []string{"COPY . /src", "RUN chown -R 1 /src"}, pairs: []Pair{{1, 2, Rewritten, 1, mb}}, more: func(r *Report) { r.Layers[1].Rewritten = mb }, want: []string{"set-owner-when-copying [2] 1048576"}, text: "COPY --chown"},
		{name: "apt lists", steps: []string{apt}, kinds: []Kind{{1, "apt-lists", 3 * mb}, {1, "tmp", 10}}, want: []string{"clean-apt-lists [1] 3145728"}, text: "rm -rf /var/lib/apt/lists/*"},
		{name: "most first", steps: []string{apt, apt}, kinds: []Kind{{1, "pip-cache", 2 * mb}, {2, "npm-cache", 3 * mb}}, want: []string{"clean-npm-cache [2] 3145728", "clean-pip-cache [1] 2097152"}},
		{name: "compilers", steps: []string{apt, apt}, kinds: []Kind{{1, "build-tools", 15 * mb}, {2, "build-tools", 15 * mb}}, want: []string{"multi-stage [1 2] 31457280"}, text: "COPY --from=build"},
		{name: "a header or two", steps: []string{apt}, kinds: []Kind{{1, "build-tools", 2 * mb}}},
		{name: "git", steps: []string{"COPY . /src"}, kinds: []Kind{{1, "vcs-history", 2 * mb}}, want: []string{"ignore-git [1] 2097152"}, text: ".dockerignore"},
		{name: "twice", steps: []string{"COPY a /a", "COPY a /b"}, pairs: []Pair{{1, 2, Duplicated, 1, mb}}, want: []string{"copy-once [1 2] 1048576"}, text: "layer 2 holds 1.049MB in files that layer 1 has"},
		{name: "npm", steps: []string{"COPY . . # buildkit", "RUN /bin/sh -c npm ci --omit=dev # buildkit"}, want: []string{"copy-lock-first [1 2] 0"}, text: "Copy package.json and package-lock.json"},
		{name: "npm after the lock file", steps: []string{"COPY package.json package-lock.json ./ # buildkit", "COPY . .", "RUN npm ci"}},
		{name: "pip after a file of another language", steps: []string{"COPY go.mod ./", "COPY --chown=1:1 . /app", "RUN pip install -r requirements.txt"}, want: []string{"copy-lock-first [2 3] 0"}, text: "requirements.txt"},
		{name: "go", steps: []string{"COPY ./ /src", "RUN go build ./..."}, want: []string{"copy-lock-first [1 2] 0"}, text: "go.mod and go.sum"},
		{name: "maven, sources only", steps: []string{"COPY src /src", "RUN mvn package"}},
		{name: "from another stage", steps: []string{"COPY --from=build . /src", "RUN npm ci"}},
		{name: "no install", steps: []string{"COPY . /src", "RUN make"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Report{Pairs: c.pairs, Kinds: c.kinds}
			for i, s := range c.steps {
				r.Layers = append(r.Layers, Layer{Index: i + 1, CreatedBy: s})
			}
			if c.more != nil {
				c.more(&r)
			}
			got := Advise(r)
			var lines []string
			for _, a := range got {
				lines = append(lines, fmt.Sprintf("%s %v %d", a.Rule, a.Layers, a.Bytes))
			}
			if !slices.Equal(lines, c.want) {
				t.Fatalf("got %q, want %q", lines, c.want)
			}
			if len(got) > 0 && !strings.Contains(got[0].Text, c.text) {
				t.Errorf("text %q", got[0].Text)
			}
		})
	}
}

// What nobody knows needs a tip; a tip needs a kind.
func TestEveryCacheKindSaysWhatToDo(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range cacheKinds {
		if k.what == "" || k.tip == "" || len(k.dirs) == 0 || seen[k.name] {
			t.Errorf("%+v", k)
		}
		seen[k.name] = true
	}
}
