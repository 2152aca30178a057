package analyze

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// Advice is what could be done better, in plain words.
type Advice struct {
	Rule   string // its name, which stays the same
	Layers []int  // whom it is about
	Bytes  int64  // that would be saved; 0 where it is about time
	Text   string
}

// worth is how many bytes are worth a sentence.
const worth = 1 << 20

// rules look at what was found. Each is a function of the report alone.
var rules = []func(Report) []Advice{
	mergeRuns, excludeFromCopy, keepOwner, cleanCaches, leaveBuildTools, leaveHistory, copyOnce, copyLockFirst,
}

// Advise applies the rules; what saves most comes first.
func Advise(r Report) []Advice {
	var out []Advice
	for _, rule := range rules {
		out = append(out, rule(r)...)
	}
	slices.SortStableFunc(out, func(a, b Advice) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return out
}

// step is what made a layer, as its history tells.
type step struct {
	verb string // RUN, COPY, ADD or empty
	text string // what follows
}

var nop = regexp.MustCompile(`^/bin/sh -c #\(nop\)\s+`)

// stepOf reads the created-by of BuildKit and of the classic builder.
func stepOf(createdBy string) step {
	s := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(createdBy), "# buildkit"))
	if loc := nop.FindStringIndex(s); loc != nil {
		s = s[loc[1]:]
	} else if strings.HasPrefix(s, "/bin/sh -c ") || strings.HasPrefix(s, "|") {
		s = "RUN " + s // with build arguments it begins with their number
	}
	verb, text, _ := strings.Cut(s, " ")
	switch verb {
	case "RUN", "COPY", "ADD":
		return step{verb, strings.TrimSpace(text)}
	}
	return step{text: s}
}

func (r Report) step(layer int) step {
	if layer < 1 || layer > len(r.Layers) {
		return step{}
	}
	return stepOf(r.Layers[layer-1].CreatedBy)
}

func size(n int64) string { return units.HumanSize(float64(n)) }

// undone sums up, by pair of layers, what is deleted and overwritten.
func (r Report) undone() []Pair {
	var out []Pair
	for _, p := range r.Pairs {
		if p.How != Deleted && p.How != Overwritten {
			continue
		}
		if n := len(out); n > 0 && out[n-1].From == p.From && out[n-1].By == p.By {
			out[n-1].Bytes += p.Bytes
			out[n-1].Files += p.Files
			continue
		}
		out = append(out, p)
	}
	return out
}

// mergeRuns: a RUN undoes what another RUN did.
func mergeRuns(r Report) (out []Advice) {
	for _, p := range r.undone() {
		if p.Bytes < worth || r.step(p.From).verb != "RUN" || r.step(p.By).verb != "RUN" {
			continue
		}
		out = append(out, Advice{"merge-runs", []int{p.From, p.By}, p.Bytes, fmt.Sprintf(
			"Merge the RUNs of layers %d and %d: layer %d deletes or overwrites %s that stay in the image with layer %d. What one RUN makes and takes away is never stored.",
			p.From, p.By, p.By, size(p.Bytes), p.From)})
	}
	return out
}

// excludeFromCopy: a later step takes away what was copied in.
func excludeFromCopy(r Report) (out []Advice) {
	for _, p := range r.undone() {
		from := r.step(p.From).verb
		if p.Bytes < worth || from != "COPY" && from != "ADD" || r.step(p.By).verb != "RUN" {
			continue
		}
		out = append(out, Advice{"do-not-copy", []int{p.From, p.By}, p.Bytes, fmt.Sprintf(
			"Do not copy what layer %d deletes or changes: %s of layer %d stay in the image. Name it in .dockerignore, or give it to the RUN only: RUN --mount=type=bind.",
			p.By, size(p.Bytes), p.From)})
	}
	return out
}

// keepOwner: files were stored again because their owner or mode changed.
func keepOwner(r Report) (out []Advice) {
	for _, l := range r.Layers {
		if l.Rewritten < worth {
			continue
		}
		out = append(out, Advice{"set-owner-when-copying", []int{l.Index}, l.Rewritten, fmt.Sprintf(
			"Set owner and mode where the files come from: layer %d stores %s again whose content did not change. Use COPY --chown and --chmod, or do it in the same RUN.",
			l.Index, size(l.Rewritten))})
	}
	return out
}

// kind is a sort of files that need not be in an image.
type kind struct {
	name string
	dirs []string // how their paths begin
	what string
	tip  string
}

var cacheKinds = []kind{
	{"apt-lists", []string{"var/lib/apt/lists/"}, "package lists of apt", "end the RUN with rm -rf /var/lib/apt/lists/*"},
	{"apt-cache", []string{"var/cache/apt/"}, "packages that apt downloaded", "end the RUN with apt-get clean"},
	{"apk-cache", []string{"var/cache/apk/", "etc/apk/cache/"}, "packages that apk downloaded", "use apk add --no-cache"},
	{"rpm-cache", []string{"var/cache/dnf/", "var/cache/yum/", "var/cache/zypp/"}, "packages that dnf, yum or zypper downloaded", "end the RUN with dnf clean all"},
	{"pip-cache", []string{"root/.cache/pip/"}, "the cache of pip", "use pip install --no-cache-dir, or RUN --mount=type=cache,target=/root/.cache/pip"},
	{"npm-cache", []string{"root/.npm/", "usr/local/share/.cache/yarn/"}, "the cache of npm or yarn", "use RUN --mount=type=cache,target=/root/.npm"},
	{"go-cache", []string{"root/.cache/go-build/", "go/pkg/mod/cache/", "root/go/pkg/mod/cache/"}, "Go's caches", "use RUN --mount=type=cache,target=/root/.cache/go-build"},
	{"tmp", []string{"tmp/", "var/tmp/"}, "temporary files", "delete them in the RUN that makes them, or use RUN --mount=type=tmpfs,target=/tmp"},
}

var (
	buildTools = kind{"build-tools", []string{"usr/lib/gcc/", "usr/libexec/gcc/", "usr/local/go/", "usr/lib/go-", "usr/share/maven/", "usr/local/cargo/", "usr/include/"}, "", ""}
	vcsHistory = kind{name: "vcs-history"}
	pathKinds  = append(slices.Clone(cacheKinds), buildTools)
)

// kindOf tells which kind a file is of, or "".
func kindOf(path string) string {
	if strings.HasPrefix(path, ".git/objects/") || strings.Contains(path, "/.git/objects/") {
		return vcsHistory.name
	}
	for _, k := range pathKinds {
		for _, d := range k.dirs {
			if strings.HasPrefix(path, d) {
				return k.name
			}
		}
	}
	return ""
}

// cleanCaches: what package managers keep for the next time is in the image.
func cleanCaches(r Report) (out []Advice) {
	for _, found := range r.Kinds {
		i := slices.IndexFunc(cacheKinds, func(k kind) bool { return k.name == found.Name })
		if i < 0 || found.Shown < worth {
			continue
		}
		k := cacheKinds[i]
		out = append(out, Advice{"clean-" + k.name, []int{found.Layer}, found.Shown, fmt.Sprintf(
			"Clean up in the same step: layer %d holds %s of %s; %s. A later step cannot give the bytes back.",
			found.Layer, size(found.Shown), k.what, k.tip)})
	}
	return out
}

// of sums up the bytes of a kind, and the layers that hold them.
func (r Report) of(name string) (bytes int64, layers []int) {
	for _, k := range r.Kinds {
		if k.Name == name {
			bytes += k.Shown
			layers = append(layers, k.Layer)
		}
	}
	return bytes, layers
}

// muchTooling is where compilers begin to weigh.
const muchTooling = 20 << 20

// leaveBuildTools: the image can build itself, though it is there to run.
func leaveBuildTools(r Report) []Advice {
	bytes, layers := r.of(buildTools.name)
	if bytes < muchTooling {
		return nil
	}
	return []Advice{{"multi-stage", layers, bytes, fmt.Sprintf(
		"Build in a stage of its own: the image holds %s of compilers, headers and build tools. A second FROM and COPY --from=build take over only what runs.", size(bytes))}}
}

// leaveHistory: the repository's history is in the image.
func leaveHistory(r Report) []Advice {
	bytes, layers := r.of(vcsHistory.name)
	if bytes < worth {
		return nil
	}
	return []Advice{{"ignore-git", layers, bytes, fmt.Sprintf(
		"Put .git into .dockerignore: the image holds %s of the repository's history, and every commit makes the COPY's cache useless.", size(bytes))}}
}

// copyOnce: layers bring what a lower one has.
func copyOnce(r Report) (out []Advice) {
	for _, p := range r.Pairs {
		if p.How != Duplicated || p.Bytes < worth {
			continue
		}
		out = append(out, Advice{"copy-once", []int{p.From, p.By}, p.Bytes, fmt.Sprintf(
			"Bring files once: layer %d holds %s in files that layer %d has with the same content. Link to them (ln), or copy only what is new.",
			p.By, size(p.Bytes), p.From)})
	}
	return out
}

// installs are the steps that fetch dependencies, and the files that name them.
var installs = []struct {
	run   *regexp.Regexp
	files *regexp.Regexp
	names string
}{
	{regexp.MustCompile(`\bnpm (ci|install)\b`), regexp.MustCompile(`package[^ /]*\.json`), "package.json and package-lock.json"},
	{regexp.MustCompile(`\byarn( install)?\b`), regexp.MustCompile(`package\.json|yarn\.lock`), "package.json and yarn.lock"},
	{regexp.MustCompile(`\bpnpm (i|install)\b`), regexp.MustCompile(`pnpm-lock\.yaml`), "package.json and pnpm-lock.yaml"},
	{regexp.MustCompile(`\bpip3? install\b.*(-r|--requirement)`), regexp.MustCompile(`requirements[^ /]*\.txt`), "requirements.txt"},
	{regexp.MustCompile(`\bgo (mod download|build|install)\b`), regexp.MustCompile(`go\.(mod|sum)`), "go.mod and go.sum"},
	{regexp.MustCompile(`\bmvn\b`), regexp.MustCompile(`pom\.xml`), "pom.xml"},
	{regexp.MustCompile(`\bbundle install\b`), regexp.MustCompile(`Gemfile`), "Gemfile and Gemfile.lock"},
	{regexp.MustCompile(`\bcomposer install\b`), regexp.MustCompile(`composer\.(json|lock)`), "composer.json and composer.lock"},
	{regexp.MustCompile(`\bcargo (build|fetch|install)\b`), regexp.MustCompile(`Cargo\.(toml|lock)`), "Cargo.toml and Cargo.lock"},
}

// everything is a COPY of the whole context. The classic builder's history does
// not tell it from one of a directory.
var everything = regexp.MustCompile(`^(--[a-z-]+(=\S*)? )*(\.|\./) \S+$`)

// copyLockFirst: dependencies are fetched again whenever any source changes.
func copyLockFirst(r Report) (out []Advice) {
	all := 0
	var copied []string
	for _, l := range r.Layers {
		s := stepOf(l.CreatedBy)
		switch {
		case s.verb == "COPY" || s.verb == "ADD":
			if everything.MatchString(s.text) && !strings.Contains(s.text, "--from=") {
				all = l.Index
			} else if all == 0 {
				copied = append(copied, s.text)
			}
		case s.verb == "RUN" && all > 0:
			for _, in := range installs {
				if !in.run.MatchString(s.text) || slices.ContainsFunc(copied, in.files.MatchString) {
					continue
				}
				out = append(out, Advice{"copy-lock-first", []int{all, l.Index}, 0, fmt.Sprintf(
					"Copy %s, and fetch dependencies, before the sources: layer %d copies everything, so layer %d fetches them again after each change of any file.",
					in.names, all, l.Index)})
				break
			}
		}
	}
	return out
}
