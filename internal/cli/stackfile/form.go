package stackfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/compose/types"
)

// shape is what the form for stacks knows at a place: its keys, "*" for any key;
// nil for anything. The items of a list have the list's shape.
type shape map[string]shape

func keys(names ...string) shape {
	s := shape{}
	for _, n := range names {
		s[n] = nil
	}
	return s
}

func (s shape) with(more shape) shape {
	out := maps.Clone(s)
	maps.Copy(out, more)
	return out
}

var (
	rollout  = keys("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order")
	fileRef  = keys("source", "target", "uid", "gid", "mode")
	resource = keys("name", "file", "external", "labels", "driver", "driver_opts", "template_driver")

	deployShape = keys("mode", "endpoint_mode", "replicas", "labels").with(shape{
		"rollback_config": rollout,
		"update_config":   rollout,
		"resources": {
			"limits":       keys("cpus", "memory", "pids"),
			"reservations": keys("cpus", "memory", "generic_resources"),
		},
		"restart_policy": keys("condition", "delay", "max_attempts", "window"),
		"placement":      keys("constraints", "max_replicas_per_node").with(shape{"preferences": keys("spread")}),
	})

	serviceShape = keys("cap_add", "cap_drop", "command", "credential_spec", "depends_on", "dns", "dns_search", "entrypoint",
		"env_file", "environment", "extra_hosts", "hostname", "image", "init", "isolation", "labels", "read_only", "stdin_open",
		"stop_grace_period", "stop_signal", "sysctls", "tmpfs", "tty", "oom_score_adj", "user", "working_dir").with(shape{
		"configs":     fileRef,
		"secrets":     fileRef,
		"deploy":      deployShape,
		"healthcheck": keys("disable", "interval", "retries", "test", "timeout", "start_period", "start_interval"),
		"logging":     keys("driver", "options"),
		"networks":    {"*": keys("aliases", "driver_opts")},
		"ports":       keys("mode", "target", "published", "protocol"),
		"ulimits":     {"*": keys("soft", "hard")},
		"volumes": keys("type", "source", "target", "read_only", "consistency").with(shape{
			"bind":   keys("propagation"),
			"volume": keys("nocopy", "subpath"),
			"tmpfs":  keys("size"),
		}),
	})

	// fileShape is the newest form (3.13) that the docker CLI knows.
	fileShape = shape{
		"services": {"*": serviceShape},
		"networks": {"*": keys("name", "driver", "driver_opts", "external", "internal", "attachable", "labels").with(shape{
			"ipam": keys("driver").with(shape{"config": keys("subnet")}),
		})},
		"volumes": {"*": keys("name", "driver", "driver_opts", "external", "labels", "x-cluster-spec")},
		"secrets": {"*": resource},
		"configs": {"*": resource},
	}
)

// unsupported are keys of services that docker's client takes and leaves out.
var unsupported = append([]string{"container_name", "expose"}, types.UnsupportedProperties...)

// silent are keys that are left out without a word: nothing is lost.
var silent = map[string]bool{
	"name": true, "version": true, "include": true, // of the file
	"services.*.expose": true, "services.*.profiles": true, "services.*.attach": true, "services.*.develop": true,
	"services.*.volumes.bind.create_host_path": true,
}

// Options change what Form does.
type Options struct {
	// Content makes a file of a secret's or config's text and returns its path.
	// nil: such a text is refused.
	Content func(kind, name, text string) (string, error)
	// Environment is what secrets and configs of the environment are read from.
	Environment func(name string) (string, bool)
	// Known keeps what docker's client knows and leaves out by itself, like build:
	// the form may be compose's again.
	Known bool
}

// Form puts what `docker-compose config` prints into the form that
// `docker stack deploy` takes. ignored names the keys that a swarm cannot honour,
// in order. model is not changed.
func Form(model map[string]any, o Options) (out map[string]any, ignored []string, err error) {
	f := former{o: o}
	copied, ok := deepCopy(model).(map[string]any)
	if !ok {
		copied = map[string]any{}
	}
	if err := f.services(copied); err != nil {
		return nil, nil, err
	}
	for _, kind := range []string{"secrets", "configs"} {
		if err := f.contents(copied, kind); err != nil {
			return nil, nil, err
		}
	}
	known := fileShape
	if o.Known {
		known = fileShape.with(shape{"services": {"*": serviceShape.with(keys(unsupported...))}})
	}
	f.prune(copied, known, "", "")
	slices.Sort(f.ignored)
	return copied, slices.Compact(f.ignored), nil
}

type former struct {
	o       Options
	ignored []string
}

func (f *former) ignore(path string) { f.ignored = append(f.ignored, path) }

// prune takes out of v what s does not know. at is where v is, place the same with
// "*" for what people name.
func (f *former) prune(v any, s shape, at, place string) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			sub, known := s[k]
			word := k
			if !known {
				sub, known = s["*"]
				word = "*"
			}
			here, there := join(at, k), join(place, word)
			switch {
			case known && v[k] == nil && word != "*":
				delete(v, k) // as if not said
			case known && sub != nil:
				f.prune(v[k], sub, here, there)
			case !known && strings.HasPrefix(k, "x-"):
				if !extensible[place] {
					delete(v, k)
				}
			case !known:
				delete(v, k)
				if !silent[join(place, k)] {
					f.ignore(here)
				}
			}
		}
	case []any:
		for _, item := range v {
			f.prune(item, s, at, place)
		}
	}
}

// extensible are the places where x-… may be.
var extensible = map[string]bool{"": true, "services.*": true, "networks.*": true, "volumes.*": true, "secrets.*": true, "configs.*": true}

func join(at, k string) string {
	if at == "" {
		return k
	}
	return at + "." + k
}

func (f *former) services(model map[string]any) error {
	services, _ := model["services"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s, ok := services[name].(map[string]any)
		if !ok {
			continue
		}
		at := "services." + name
		if err := ports(s, at); err != nil {
			return err
		}
		if err := envFiles(s, at); err != nil {
			return err
		}
		for _, kind := range []string{"secrets", "configs"} {
			if err := modes(s, kind, at); err != nil {
				return err
			}
		}
		if err := volumes(s, at); err != nil {
			return err
		}
		f.order(s, at)
		f.deploy(s)
		hosts(s)
		f.networkMode(model, s)
	}
	return nil
}

// child is a mapping below m, made if wanted.
func child(m map[string]any, k string, wanted bool) map[string]any {
	if sub, ok := m[k].(map[string]any); ok {
		return sub
	}
	if !wanted {
		return nil
	}
	sub := map[string]any{}
	m[k] = sub
	return sub
}

// move gives a value its other name, unless that is taken.
func move(from map[string]any, k string, to map[string]any, as string, turn func(any) any) {
	v := from[k]
	delete(from, k)
	if _, taken := to[as]; v != nil && !taken {
		to[as] = turn(v)
	}
}

func same(v any) any { return v }

func text(v any) any { return fmt.Sprint(v) }

// deploy says in deploy what compose also says of the service itself.
func (f *former) deploy(s map[string]any) {
	if n, ok := s["scale"]; ok && n != nil {
		move(s, "scale", child(s, "deploy", true), "replicas", same)
	}
	for _, m := range []struct{ key, of, as string }{
		{"mem_limit", "limits", "memory"},
		{"cpus", "limits", "cpus"},
		{"pids_limit", "limits", "pids"},
		{"mem_reservation", "reservations", "memory"},
	} {
		if s[m.key] == nil {
			continue
		}
		turn := text
		if m.as == "pids" {
			turn = same
		}
		move(s, m.key, child(child(child(s, "deploy", true), "resources", true), m.of, true), m.as, turn)
	}
	if policy, ok := restart(s["restart"]); ok {
		delete(s, "restart")
		d := child(s, "deploy", true)
		if d["restart_policy"] == nil {
			d["restart_policy"] = policy
		}
	}
	resources := child(child(s, "deploy", true), "resources", false)
	for _, of := range []string{"limits", "reservations"} {
		r := child(resources, of, false)
		for _, k := range []string{"cpus", "memory"} {
			if r[k] != nil {
				r[k] = text(r[k])
			}
		}
	}
	if len(child(s, "deploy", false)) == 0 {
		delete(s, "deploy")
	}
}

// restart is compose's policy in a swarm's words.
func restart(v any) (map[string]any, bool) {
	word, ok := v.(string)
	if !ok {
		return nil, false
	}
	word, count, counted := strings.Cut(word, ":")
	switch {
	case word == "no" && !counted:
		return map[string]any{"condition": "none"}, true
	case (word == "always" || word == "unless-stopped") && !counted:
		return map[string]any{"condition": "any"}, true
	case word == "on-failure":
		p := map[string]any{"condition": "on-failure"}
		if n, err := strconv.Atoi(count); err == nil && n > 0 {
			p["max_attempts"] = n
		}
		return p, true
	}
	return nil, false
}

func ports(s map[string]any, at string) error {
	list, _ := s["ports"].([]any)
	for _, item := range list {
		p, ok := item.(map[string]any)
		if !ok {
			continue
		}
		for _, k := range []string{"published", "target"} {
			word, ok := p[k].(string)
			switch {
			case ok && word == "":
				delete(p, k)
			case ok:
				n, err := strconv.Atoi(word)
				if err != nil {
					return fmt.Errorf("%s.ports: %s %q is not one port: a swarm publishes a port that is named", at, k, word)
				}
				p[k] = n
			}
		}
	}
	return nil
}

// modes turns a file's mode, which compose prints as text, into a number.
func modes(s map[string]any, kind, at string) error {
	list, _ := s[kind].([]any)
	for _, item := range list {
		r, ok := item.(map[string]any)
		if !ok {
			continue
		}
		word, ok := r["mode"].(string)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(word, "0o"), 8, 32)
		if err != nil {
			return fmt.Errorf("%s.%s: mode %q is not an octal number", at, kind, word)
		}
		r["mode"] = int(n)
	}
	return nil
}

func volumes(s map[string]any, at string) error {
	list, _ := s["volumes"].([]any)
	for _, item := range list {
		v, ok := item.(map[string]any)
		if !ok {
			continue
		}
		t := child(v, "tmpfs", false)
		if word, ok := t["size"].(string); ok {
			n, err := strconv.Atoi(word)
			if err != nil {
				return fmt.Errorf("%s.volumes: size %q of the tmpfs at %v is not a number of bytes", at, word, v["target"])
			}
			t["size"] = n
		}
	}
	return nil
}

// order keeps of depends_on what a swarm's file may say. Tasks of a swarm start
// when they can: a condition is not waited for.
func (f *former) order(s map[string]any, at string) {
	deps, ok := s["depends_on"].(map[string]any)
	if !ok {
		return
	}
	list := []any{}
	for _, name := range slices.Sorted(maps.Keys(deps)) {
		list = append(list, name)
		d, ok := deps[name].(map[string]any)
		if c := d["condition"]; ok && c != nil && c != "service_started" || d["restart"] == true {
			f.ignore(at + ".depends_on." + name)
		}
	}
	s["depends_on"] = list
}

// envFiles are lists of paths in this form.
func envFiles(s map[string]any, at string) error {
	list, ok := s["env_file"].([]any)
	if !ok {
		return nil
	}
	for i, item := range list {
		e, ok := item.(map[string]any)
		if !ok {
			continue
		}
		if e["required"] == false || e["format"] != nil {
			return fmt.Errorf("%s.env_file: %v is not required, or of a format: let compose read it (config without --no-env-resolution)", at, e["path"])
		}
		list[i] = e["path"]
	}
	return nil
}

func hosts(s map[string]any) {
	list, _ := s["extra_hosts"].([]any)
	for i, item := range list {
		if word, ok := item.(string); ok {
			if host, ip, ok := strings.Cut(word, "="); ok {
				list[i] = host + ":" + ip
			}
		}
	}
}

// networkMode turns the nodes' own networks into networks of the service.
func (f *former) networkMode(model, s map[string]any) {
	mode, ok := s["network_mode"].(string)
	if !ok || (mode != "host" && mode != "bridge" && mode != "none") || len(child(s, "networks", false)) > 0 {
		return
	}
	all := child(model, "networks", true)
	if n, ok := all[mode].(map[string]any); ok && n["external"] != true {
		return // the name is another network's here
	}
	delete(s, "network_mode")
	s["networks"] = map[string]any{mode: nil}
	all[mode] = map[string]any{"external": true, "name": mode}
}

// contents makes files of secrets and configs that are given as text.
func (f *former) contents(model map[string]any, kind string) error {
	all := child(model, kind, false)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r, ok := all[name].(map[string]any)
		if !ok {
			continue
		}
		value, given := r["content"].(string)
		variable, fromEnv := r["environment"].(string)
		if !given && !fromEnv {
			continue
		}
		where := kind + "." + name
		if !given {
			if f.o.Environment == nil {
				return fmt.Errorf("%s: comes from the environment: name a file", where)
			}
			if value, given = f.o.Environment(variable); !given {
				return fmt.Errorf("%s: environment variable %s is not set", where, variable)
			}
		}
		if f.o.Content == nil {
			return fmt.Errorf("%s: is given as text: name a file", where)
		}
		path, err := f.o.Content(kind, name, value)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		delete(r, "content")
		delete(r, "environment")
		r["file"] = path
	}
	return nil
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, sub := range v {
			out[k] = deepCopy(sub)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, sub := range v {
			out[i] = deepCopy(sub)
		}
		return out
	}
	return v
}

// Escape doubles the dollars of all texts, so that nobody takes them for variables.
func Escape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, sub := range v {
			out[k] = Escape(sub)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, sub := range v {
			out[i] = Escape(sub)
		}
		return out
	case string:
		return strings.ReplaceAll(v, "$", "$$")
	}
	return v
}
