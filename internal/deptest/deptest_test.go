package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module      = "holdfast.dev/holdfast"
	maxDocLines = 25
)

var update = flag.Bool("update", false, "write the golden files")

type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// forbidden lists dependencies, direct or not, that a package must never get.
// The reason is for whoever adds one.
var forbidden = []struct {
	from   string // this package, or with /... all below it
	to     string // this package and all below it
	reason string
}{
	{"cmd/holdfastd", "github.com/docker/cli", "the client's command tree is 20 MB the daemon never runs"},
	{"cmd/holdfastd", "github.com/docker/compose/v5", "compose is the client's"},
	{"cmd/holdfastd", "github.com/docker/docker", "nothing of dockerd's code is in the engine"},
	{"cmd/holdfastd", "github.com/moby/moby/v2", "nothing of dockerd's code is in the engine"},
	{"cmd/holdfastd", module + "/internal/cli", "the daemon knows no client commands"},
	{"cmd/holdfastd", module + "/internal/testkit", "test support is not shipped"},
	{"cmd/holdfastd", "github.com/kopia/kopia", "backups are made by a program of their own: 40 MB that the daemon never carries"},
	{"cmd/holdfast-backup", module + "/internal/daemon", "it does what it is told, and knows no engine"},
	{"cmd/holdfast-backup", module + "/internal/store", "records are the daemon's"},
	{"internal/backup", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/backup", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/backup", "github.com/kopia/kopia", "kopia is internal/backup/kopia's technology"},
	{"internal/backup/kopia", module + "/internal/backup/process", "adapters do not know each other"},
	{"internal/backup/process", module + "/internal/backup/kopia", "adapters do not know each other"},
	{"internal/volume", module + "/internal/backup", "domains never import each other; internal/daemon joins them"},
	{"cmd/holdfast", module + "/internal/daemon", "the client talks to the daemon over its API only"},
	{"cmd/holdfast", module + "/internal/ctrd", "the client talks to the daemon over its API only"},
	{"cmd/holdfast", module + "/internal/container", "the client talks to the daemon over its API only"},
	{"cmd/holdfast", module + "/internal/testkit", "test support is not shipped"},
	{"internal/container", module + "/internal/image", "domains never import each other; internal/daemon joins them"},
	{"internal/container", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/container", module + "/internal/network", "domains never import each other; internal/daemon joins them"},
	{"internal/image", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/image", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/image", module + "/internal/network", "domains never import each other; internal/daemon joins them"},
	{"internal/volume", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/volume", module + "/internal/image", "domains never import each other; internal/daemon joins them"},
	{"internal/volume", module + "/internal/network", "domains never import each other; internal/daemon joins them"},
	{"internal/network", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/network", module + "/internal/image", "domains never import each other; internal/daemon joins them"},
	{"internal/network", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/usage", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/usage", module + "/internal/image", "domains never import each other; internal/daemon joins them"},
	{"internal/usage", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/usage", module + "/internal/network", "domains never import each other; internal/daemon joins them"},
	{"internal/plugin", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/plugin", module + "/internal/volume", "domains never import each other; internal/daemon joins them"},
	{"internal/plugin", module + "/internal/image", "domains never import each other; internal/daemon joins them"},
	{"internal/plugin", "github.com/containerd/containerd/v2", "containerd is internal/ctrd's technology"},
	{"internal/plugin", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/stateful", module + "/internal/container", "domains never import each other; internal/daemon joins them"},
	{"internal/stateful", module + "/internal/cluster", "the rules know no swarm"},
	{"internal/stateful", "net/http", "the rules know no network"},
	{"cmd/holdfast-member", module + "/internal/cluster", "it is copied into containers: small, and knows its own server only"},
	{"cmd/holdfast-member", "net/http", "it is copied into containers: small, and knows its own server only"},
	{"internal/usage", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/container", "github.com/containerd/containerd/v2", "containerd is internal/ctrd's technology"},
	{"internal/image", "github.com/containerd/containerd/v2", "containerd is internal/ctrd's technology"},
	{"internal/network", "github.com/vishvananda/netlink", "netlink is internal/network/link's technology"},
	{"internal/network", "github.com/google/nftables", "nftables is internal/network/nft's technology"},
	{"internal/container", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/image", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/volume", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/network", "go.etcd.io/bbolt", "the database is internal/store's technology"},
	{"internal/registry", module + "/internal/image", "a registry's handlers know no engine: it is served by the client too"},
	{"internal/registry", "github.com/containerd/containerd/v2", "a registry's handlers know no engine"},
	{"internal/base/...", module + "/internal/event", "base is under all"},
	{"api", module + "/internal", "what others build on stands alone"},
	{"client", module + "/internal", "what others build on stands alone"},
	{"internal/build", "github.com/containerd/containerd/v2", "what a build request says knows no builder"},
	{"internal/ctrd/...", module + "/internal/store", "adapters do not know each other"},
	{"internal/ctrd/...", module + "/internal/network", "adapters fill their own domain's port"},
	{"internal/store", module + "/internal/container", "the store keeps records of any type"},
	{"internal/network/nft", module + "/internal/network/link", "adapters do not know each other"},
	{"internal/network/link", module + "/internal/network/nft", "adapters do not know each other"},
	{"internal/volume/btrfs", module + "/internal/store", "adapters do not know each other"},
	{"internal/volume/btrfs", module + "/internal/volume/local", "adapters do not know each other"},
	{"internal/volume/plugin", module + "/internal/store", "adapters do not know each other"},
	{"internal/volume/plugin", module + "/internal/volume/local", "adapters do not know each other"},
	{"internal/volume/local", module + "/internal/container", "adapters fill their own domain's port"},
	{"internal/cluster/...", module + "/internal/httpapi", "the swarm does not know how it is asked"},
	{"internal/cluster/...", module + "/internal/ctrd", "the swarm works through the domains"},
	{"internal/cluster/...", module + "/internal/store", "the swarm's truth is in SwarmKit's own store"},
	{"internal/httpapi/...", module + "/internal/cluster", "routers call only the Backend they declare"},
	{"internal/httpapi/...", "github.com/moby/swarmkit/v2", "SwarmKit is internal/cluster's technology"},
	{"internal/httpapi/...", module + "/internal/ctrd", "routers call only the Backend they declare"},
	{"internal/httpapi/...", module + "/internal/store", "routers call only the Backend they declare"},
	{"internal/httpapi/...", module + "/internal/daemon", "routers call only the Backend they declare"},
}

func TestNothingForbiddenIsReached(t *testing.T) {
	all := list(t, "./...")
	for _, f := range forbidden {
		from, below := strings.CutSuffix(f.from, "/...")
		from = module + "/" + from
		matched := false
		for _, p := range all {
			if p.ImportPath != from && (!below || !strings.HasPrefix(p.ImportPath, from+"/")) {
				continue
			}
			matched = true
			for _, dep := range p.Deps {
				if dep == f.to || strings.HasPrefix(dep, f.to+"/") {
					t.Errorf("%s depends on %s: %s", p.ImportPath, dep, f.reason)
					break
				}
			}
		}
		if !matched {
			t.Errorf("the rule for %s holds no package", f.from)
		}
	}
}

// shipsTests are packages of others that hold test code among their sources. They
// are known and cannot be had without; nothing else may bring testing along.
var shipsTests = []string{
	"github.com/moby/swarmkit/v2/manager/allocator",
	"github.com/stretchr/testify/suite", // of the one above
}

func TestNoTestSupportIsShipped(t *testing.T) {
	found := 0
	for _, p := range list(t, "-deps", "./cmd/holdfastd") {
		switch {
		case !slices.Contains(p.Imports, "testing"):
		case slices.Contains(shipsTests, p.ImportPath):
			found++
		case p.Standard:
		default:
			t.Errorf("%s imports testing: test support is not shipped", p.ImportPath)
		}
	}
	if found != len(shipsTests) {
		t.Errorf("%d of the %d known exceptions are there: take the others out", found, len(shipsTests))
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t, "./...") {
		var docs []string
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs = append(docs, f.Doc.Text())
			}
		}
		if len(p.GoFiles) == 0 {
			continue // only tests
		}
		if len(docs) != 1 {
			t.Errorf("%s has %d package comments, want one", p.ImportPath, len(docs))
			continue
		}
		if n := strings.Count(docs[0], "\n"); n > maxDocLines {
			t.Errorf("%s: package comment of %d lines, at most %d: the rest belongs to docs/", p.ImportPath, n, maxDocLines)
		}
		if want := "Package " + p.Name + " "; p.Name != "main" && !strings.HasPrefix(docs[0], want) {
			t.Errorf("%s: package comment must start with %q", p.ImportPath, want)
		}
	}
}

// The modules that the shipped programs are made of are kept in testdata, so
// that growth shows in review. After a wanted change: go test ./internal/deptest -update
func TestModulesOfTheProgramsAreReviewed(t *testing.T) {
	for _, program := range []string{"holdfastd", "holdfast", "holdfast-backup"} {
		var mods []string
		for _, p := range list(t, "-deps", "./cmd/"+program) {
			if p.Module != nil && p.Module.Path != module {
				mods = append(mods, p.Module.Path)
			}
		}
		slices.Sort(mods)
		got := strings.Join(slices.Compact(mods), "\n") + "\n"
		golden := filepath.Join("testdata", program+".modules")
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("modules of %s changed (-update writes the list, review it):\n%s", program, diff(string(want), got))
		}
	}
}

func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Name,Dir,Standard,GoFiles,Imports,Deps,Module"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// The page that explains the firewall shows the rules that a test of
// internal/network/nettest holds against the kernel.
func TestRulesAreExplained(t *testing.T) {
	rules, err := os.ReadFile("../network/nettest/testdata/rules.nft")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/ops/nftables.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, rules) {
		t.Error("docs/ops/nftables.md does not show the rules as they are: put them in and revise its prose")
	}
}

// Documents name files; a file that is gone makes them lie.
func TestDocumentsNameFilesThatAreThere(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 5 {
		t.Fatalf("pages %v", pages)
	}
	path := regexp.MustCompile("`((?:internal|cmd|docs|test|tools|examples|build|packaging|changelog)/[a-zA-Z0-9_./-]*[a-zA-Z0-9])`")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllSubmatch(text, -1) {
			name := string(m[1])
			if strings.HasPrefix(name, "test/artifacts") || strings.Contains(name, "...") {
				continue // made by tests
			}
			if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
				t.Errorf("%s names %s, which is not there", page, name)
			}
		}
	}
}
