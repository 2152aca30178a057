package parity

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// keeps: of two objects that the set-up makes, one with "yes" and one with "no"
// in its reply, the filter keeps the first alone.
func keeps(method, path string, setup func(x *ctx), yes, no string, kv ...string) check {
	return func(t *testing.T, x *ctx) {
		setup(x)
		got := x.ok(method, path+filters(kv...), nil)
		if !strings.Contains(got, yes) || no != "" && strings.Contains(got, no) {
			t.Errorf("%v: want %q and not %q in %s", kv, yes, no, got)
		}
	}
}

// ps lists the containers "yes" and "no", made with the flags.
func ps(yesFlags, noFlags []string, kv ...string) check {
	return keeps("GET", "/containers/json?all=1&", func(x *ctx) {
		x.Docker("network", "create", "net1")
		for _, c := range []struct {
			name  string
			flags []string
		}{{"yes", yesFlags}, {"no", noFlags}} {
			x.Holdfast(append(append([]string{"create", "--name", c.name}, c.flags...), "busybox", "true")...)
		}
	}, `"/yes"`, `"/no"`, kv...)
}

// up is ps with containers that run.
func up(yesFlags, noFlags []string, kv ...string) check {
	return keeps("GET", "/containers/json?", func(x *ctx) {
		x.Holdfast(append(append([]string{"run", "-d", "--name", "yes"}, yesFlags...), "busybox", "sleep", "600")...)
		x.Holdfast(append(append([]string{"run", "-d", "--name", "no"}, noFlags...), "busybox", "sleep", "600")...)
	}, `"/yes"`, `"/no"`, kv...)
}

// ran is ps with containers that ran.
func ran(yes, no string, kv ...string) check {
	return keeps("GET", "/containers/json?all=1&", func(x *ctx) {
		x.hf("run", "--name", "yes", "busybox", "sh", "-c", yes)
		x.hf("run", "--name", "no", "busybox", "sh", "-c", no)
	}, `"/yes"`, `"/no"`, kv...)
}

// twoImages loads yes:1 and no:1, the first with a label and older.
func twoImages(x *ctx) {
	x.Docker("create", "--name", "keeper", "busybox") // what the other tests need stays
	for _, i := range []struct{ ref, label, created string }{{"yes:1", "mine", ""}, {"no:1", "other", ""}} {
		x.Load(testkit.ImageSpec{
			Ref: i.ref, Layers: [][]byte{testkit.Layer{i.label: {Body: "x"}}.Tar()},
			Config: map[string]any{"Labels": map[string]string{i.label: "v"}},
		})
	}
}

func images(setup func(x *ctx), yes, no string, kv ...string) check {
	return keeps("GET", "/images/json?", setup, yes, no, kv...)
}

// built makes "younger" on top of busybox.
func built(x *ctx) {
	x.ok("POST", "/build?t=younger:1", testkit.Layer{"Dockerfile": {Body: "FROM busybox\nCOPY Dockerfile /\n"}}.Tar())
}

func stoppedTwo(x *ctx) {
	x.Docker("create", "--name", "yes", "--label", "mine=v", "busybox")
	x.Docker("create", "--name", "no", "--label", "other=v", "busybox")
}

// left: after a prune with the filter only the objects called no are there.
func left(path, what string, setup func(x *ctx), kv ...string) check {
	return func(t *testing.T, x *ctx) {
		setup(x)
		x.ok("POST", path+filters(kv...), nil)
		list := map[string][]string{
			"container": {"ps", "-a", "--format", "{{.Names}}"},
			"volume":    {"volume", "ls", "-q"},
			"network":   {"network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"},
			"image":     {"images", "--format", "{{.Repository}}"},
		}[what]
		got := strings.Fields(x.Docker(list...))
		for _, name := range got {
			if name == "yes" {
				t.Errorf("%v: %q is left", kv, got)
			}
		}
		if !strings.Contains(strings.Join(got, " "), "no") {
			t.Errorf("%v: only %q is left", kv, got)
		}
	}
}

func twoVolumes(x *ctx) {
	x.Docker("volume", "create", "--label", "mine=v", "yes")
	x.Docker("volume", "create", "--label", "other=v", "no")
}

func twoNetworks(x *ctx) {
	x.Docker("network", "create", "--label", "mine=v", "yes")
	x.Docker("network", "create", "--label", "other=v", "no")
}

// happened makes events of every kind and asks for them.
func happened(yes, no string, kv ...string) check {
	return func(t *testing.T, x *ctx) {
		twoVolumes(x)
		twoNetworks(x)
		x.Docker("create", "--name", "yes", "--label", "mine=v", "busybox")
		x.Docker("create", "--name", "no", "busybox")
		x.Docker("tag", "busybox", "yes:1")
		keeps("GET", "/events?"+sofar()+"&", func(*ctx) {}, yes, no, kv...)(t, x)
	}
}

var filterRows = []row{
	{"GET /containers/json ancestor", served, "", func(t *testing.T, x *ctx) {
		built(x)
		x.Docker("create", "--name", "yes", "younger:1", "true")
		x.Load(testkit.ImageSpec{Ref: "other:1", Layers: [][]byte{testkit.Layer{"f": {Body: "x"}}.Tar()}, Config: map[string]any{"Cmd": []string{"x"}}})
		x.Docker("create", "--name", "no", "other:1")
		keeps("GET", "/containers/json?all=1&", func(*ctx) {}, `"/yes"`, `"/no"`, "ancestor", "busybox")(t, x)
		keeps("GET", "/containers/json?all=1&", func(*ctx) {}, `"/yes"`, `"/no"`, "ancestor", "younger:1")(t, x)
	}},
	{"GET /containers/json annotation", served, "", ps([]string{"--annotation", "a.example=1"}, []string{"--annotation", "a.example=2"}, "annotation", "a.example=1")},
	{"GET /containers/json before", served, "", ps(nil, nil, "before", "no")},
	{"GET /containers/json expose", served, "", up([]string{"--expose", "81"}, []string{"--expose", "82"}, "expose", "80-81/tcp")},
	{"GET /containers/json exited", served, "", ran("exit 3", "exit 4", "exited", "3")},
	{"GET /containers/json health", served, "", keeps("GET", "/containers/json?all=1&", func(x *ctx) {
		x.Docker("run", "-d", "--name", "yes", "--health-cmd", "true", "--health-interval", "100ms", "busybox", "sleep", "600")
		x.Docker("run", "-d", "--name", "no", "busybox", "sleep", "600")
		x.Eventually(settle, "healthy", func() (bool, string) {
			s := x.Docker("inspect", "-f", "{{.State.Health.Status}}", "yes")
			return s == "healthy", s
		})
	}, `"/yes"`, `"/no"`, "health", "healthy")},
	{"GET /containers/json id", served, "", func(t *testing.T, x *ctx) {
		id := x.Docker("create", "--name", "yes", "busybox")
		x.Docker("create", "--name", "no", "busybox")
		keeps("GET", "/containers/json?all=1&", func(*ctx) {}, `"/yes"`, `"/no"`, "id", id[:16])(t, x)
	}},
	{"GET /containers/json isolation", served, "", ps([]string{"--isolation", "default"}, nil, "isolation", "default")},
	{"GET /containers/json is-task", served, "", ps(nil, nil, "is-task", "false", "name", "yes")},
	{"GET /containers/json label", served, "", ps([]string{"--label", "k=1"}, []string{"--label", "k=2"}, "label", "k=1")},
	{"GET /containers/json name", served, "", ps(nil, nil, "name", "^/?ye.$")},
	{"GET /containers/json network", served, "", ps([]string{"--network", "net1"}, nil, "network", "net1")},
	{"GET /containers/json publish", served, "", up([]string{"-p", "18471:81"}, []string{"-p", "18472:82"}, "publish", "18471")},
	{"GET /containers/json since", served, "", keeps("GET", "/containers/json?all=1&", func(x *ctx) {
		x.Docker("create", "--name", "no", "busybox")
		x.Docker("create", "--name", "yes", "busybox")
	}, `"/yes"`, `"/no"`, "since", "no")},
	{"GET /containers/json status", served, "", keeps("GET", "/containers/json?", func(x *ctx) {
		x.Docker("run", "--name", "yes", "busybox", "true")
		x.Docker("create", "--name", "no", "busybox")
	}, `"/yes"`, `"/no"`, "status", "exited")},
	{"GET /containers/json volume", served, "", ps([]string{"-v", "vol:/v"}, []string{"-v", "other:/w"}, "volume", "vol")},

	{"POST /containers/prune until", served, "", both(
		left("/containers/prune?", "container", stoppedTwo, "until", "0s", "label", "mine"),
		func(t *testing.T, x *ctx) {
			if got := x.ok("POST", "/containers/prune?"+filters("until", "1h"), nil); strings.Contains(got, `["`) {
				t.Errorf("removed what is younger: %s", got)
			}
		},
	)},
	{"POST /containers/prune label", served, "", left("/containers/prune?", "container", stoppedTwo, "label", "mine=v")},
	{"POST /containers/prune label!", served, "", left("/containers/prune?", "container", stoppedTwo, "label!", "other")},

	{"GET /images/json before", served, "", images(built, "busybox:latest", "younger:1", "before", "younger:1")},
	{"GET /images/json dangling", served, "", images(func(x *ctx) {
		built(x)
		x.Docker("tag", "busybox", "younger:1")
	}, `"RepoTags":[]`, "busybox:latest", "dangling", "true")},
	{"GET /images/json label", served, "", images(twoImages, "yes:1", "no:1", "label", "mine=v")},
	{"GET /images/json reference", served, "", images(twoImages, "yes:1", "no:1", "reference", "ye*")},
	{"GET /images/json since", served, "", images(built, "younger:1", "busybox:latest", "since", "busybox")},
	{"GET /images/json until", served, "", both(
		images(twoImages, "yes:1", "", "until", "0s"),
		func(t *testing.T, x *ctx) {
			x.equal("older than an hour", x.ok("GET", "/images/json?"+filters("until", "1h", "reference", "yes"), nil), "[]\n")
		},
	)},

	{"POST /images/prune dangling", served, "", func(t *testing.T, x *ctx) {
		built(x)
		x.Docker("tag", "busybox", "younger:1")
		keeps("POST", "/images/prune?", func(*ctx) {}, `"Deleted":"sha256:`, "busybox", "dangling", "true")(t, x)
	}},
	{"POST /images/prune until", served, "", both(
		left("/images/prune?", "image", func(x *ctx) { twoImages(x); x.Docker("create", "no:1", "x") }, "dangling", "false", "until", "0s", "label", "mine"),
		func(t *testing.T, x *ctx) {
			if got := x.ok("POST", "/images/prune?"+filters("dangling", "false", "until", "1h"), nil); strings.Contains(got, "yes:1") {
				t.Errorf("removed what is younger: %s", got)
			}
		},
	)},
	{"POST /images/prune label", served, "", left("/images/prune?", "image", twoImages, "dangling", "false", "label", "mine=v")},
	{"POST /images/prune label!", served, "", left("/images/prune?", "image", twoImages, "dangling", "false", "label!", "other")},

	{"GET /images/search is-official", served, "", finds("is-official", "true")},
	{"GET /images/search stars", served, "", finds("stars", "3")},

	{"GET /volumes dangling", served, "", keeps("GET", "/volumes?", func(x *ctx) {
		twoVolumes(x)
		x.Docker("create", "-v", "no:/v", "busybox")
	}, `"Name":"yes"`, `"Name":"no"`, "dangling", "true")},
	{"GET /volumes driver", served, "", both(
		keeps("GET", "/volumes?", twoVolumes, `"Name":"yes"`, "", "driver", "local"),
		keeps("GET", "/volumes?", func(*ctx) {}, `"Volumes":[]`, "", "driver", "nosuch"),
	)},
	{"GET /volumes label", served, "", keeps("GET", "/volumes?", twoVolumes, `"Name":"yes"`, `"Name":"no"`, "label", "mine=v")},
	{"GET /volumes name", served, "", keeps("GET", "/volumes?", twoVolumes, `"Name":"yes"`, `"Name":"no"`, "name", "ye")},
	{"POST /volumes/prune label", served, "", left("/volumes/prune?", "volume", twoVolumes, "all", "true", "label", "mine=v")},
	{"POST /volumes/prune label!", served, "", left("/volumes/prune?", "volume", twoVolumes, "all", "true", "label!", "other")},
	{"POST /volumes/prune all", served, "", func(t *testing.T, x *ctx) {
		twoVolumes(x)
		x.ok("POST", "/volumes/prune", nil)
		x.equal("named volumes without all", x.Docker("volume", "ls", "-q"), "no\nyes")
		x.ok("POST", "/volumes/prune?"+filters("all", "1"), nil)
		x.equal("with all", x.Docker("volume", "ls", "-q"), "")
	}},

	{"GET /networks dangling", served, "", keeps("GET", "/networks?", func(x *ctx) {
		twoNetworks(x)
		x.Docker("run", "-d", "--network", "no", "busybox", "sleep", "600")
	}, `"Name":"yes"`, `"Name":"no"`, "dangling", "true")},
	{"GET /networks driver", served, "", keeps("GET", "/networks?", twoNetworks, `"Name":"yes"`, `"Name":"host"`, "driver", "bridge")},
	{"GET /networks id", served, "", func(t *testing.T, x *ctx) {
		twoNetworks(x)
		keeps("GET", "/networks?", func(*ctx) {}, `"Name":"yes"`, `"Name":"no"`, "id", x.Docker("network", "inspect", "-f", "{{.Id}}", "yes")[:16])(t, x)
	}},
	{"GET /networks label", served, "", keeps("GET", "/networks?", twoNetworks, `"Name":"yes"`, `"Name":"no"`, "label", "mine=v")},
	{"GET /networks name", served, "", keeps("GET", "/networks?", twoNetworks, `"Name":"yes"`, `"Name":"no"`, "name", "ye")},
	{"GET /networks scope", served, "", keeps("GET", "/networks?", twoNetworks, `"Name":"yes"`, "", "scope", "local")},
	{"GET /networks type", served, "", keeps("GET", "/networks?", twoNetworks, `"Name":"yes"`, `"Name":"bridge"`, "type", "custom")},
	{"POST /networks/prune until", served, "", both(
		left("/networks/prune?", "network", twoNetworks, "until", "0s", "label", "mine"),
		func(t *testing.T, x *ctx) {
			if got := x.ok("POST", "/networks/prune?"+filters("until", "1h"), nil); strings.Contains(got, `["`) {
				t.Errorf("removed what is younger: %s", got)
			}
		},
	)},
	{"POST /networks/prune label", served, "", left("/networks/prune?", "network", twoNetworks, "label", "mine=v")},
	{"POST /networks/prune label!", served, "", left("/networks/prune?", "network", twoNetworks, "label!", "other")},

	{"GET /events config", served, "matches nothing: there are no configs", none("config", "x")},
	{"GET /events container", served, "", happened(`"name":"yes"`, `"name":"no"`, "type", "container", "container", "yes")},
	{"GET /events daemon", served, "", none("daemon", "no-such-daemon")},
	{"GET /events event", served, "", happened(`"Action":"tag"`, `"Action":"create"`, "event", "tag")},
	{"GET /events image", served, "", happened(`"Action":"tag"`, `"Type":"volume"`, "image", "yes:1")},
	{"GET /events label", served, "", happened(`"mine":"v"`, `"name":"no"`, "type", "container", "label", "mine=v")},
	{"GET /events network", served, "", happened(`"name":"yes"`, `"name":"no"`, "network", "yes")},
	{"GET /events node", served, "matches nothing: there are no nodes", none("node", "x")},
	{"GET /events plugin", served, "", withPlugin(func(t *testing.T, x *ctx) {
		says("GET", "/events?"+sofar()+"&"+filters("plugin", "case:latest"), nil, `"Action":"create"`)(t, x)
	})},
	{"GET /plugins capability", served, "", withPlugin(func(t *testing.T, x *ctx) {
		says("GET", "/plugins?"+filters("capability", "volumedriver"), nil, `"Name":"case:latest"`)(t, x)
		says("GET", "/plugins?"+filters("capability", "authz"), nil, "[]")(t, x)
	})},
	{"GET /plugins enable", served, "as Docker, by the name `enabled`", withPlugin(func(t *testing.T, x *ctx) {
		says("GET", "/plugins?"+filters("enabled", "false"), nil, `"Name":"case:latest"`)(t, x)
		says("GET", "/plugins?"+filters("enabled", "true"), nil, "[]")(t, x)
	})},
	{"GET /events scope", served, "", happened(`"Type":"volume"`, `"scope":"swarm"`, "scope", "local")},
	{"GET /events secret", served, "matches nothing: there are no secrets", none("secret", "x")},
	{"GET /events service", served, "matches nothing: there are no services", none("service", "x")},
	{"GET /events type", served, "", happened(`"Type":"network"`, `"Type":"volume"`, "type", "network")},
	{"GET /events volume", served, "", happened(`"ID":"yes"`, `"ID":"no"`, "volume", "yes")},

	{"POST /build/prune until", served, "", cacheFilter("until", "1h")},
	{"POST /build/prune id", served, "", cacheFilter("id", "nosuch")},
	{"POST /build/prune parent", served, "", cacheFilter("parent", "nosuch")},
	{"POST /build/prune type", served, "", cacheFilter("type", "nosuch")},
	{"POST /build/prune description", served, "", cacheFilter("description", "nosuch")},
	{"POST /build/prune inuse", served, "", cacheFilter("inuse", "true")},
	{"POST /build/prune shared", served, "", cacheFilter("shared", "true", "type", "nosuch")},
	{"POST /build/prune private", served, "", cacheFilter("private", "true", "type", "nosuch")},
}

// sofar asks for the events until now: with a later end the reply would stay open.
func sofar() string {
	now := time.Now()
	return fmt.Sprintf("since=1&until=%d.%09d", now.Unix(), now.Nanosecond())
}

// none: events happen, and the filter lets none of them through.
func none(kv ...string) check {
	return func(t *testing.T, x *ctx) {
		twoVolumes(x)
		if got := x.ok("GET", "/events?"+sofar()+"&"+filters(kv...), nil); strings.Contains(got, `"Type":"volume"`) {
			t.Errorf("%v: %s", kv, got)
		}
	}
}

// cacheFilter: the filter keeps a prune from what it does not match.
func cacheFilter(kv ...string) check {
	return func(t *testing.T, x *ctx) {
		x.ok("POST", "/build?t=built:1", testkit.Layer{"Dockerfile": {Body: fmt.Sprintf("FROM busybox\nRUN echo %s >/f\n", kv[0])}}.Tar())
		if got := x.ok("POST", "/build/prune?all=1&"+filters(kv...), nil); strings.Contains(got, `"CachesDeleted":["`) {
			t.Errorf("%v: pruned %s", kv, got)
		}
		if got := x.ok("POST", "/build/prune?all=1", nil); !strings.Contains(got, `"CachesDeleted":["`) {
			t.Errorf("nothing was there to be kept: %s", got)
		}
	}
}
