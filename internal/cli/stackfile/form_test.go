package stackfile

import (
	"strings"
	"testing"

	dockerloader "github.com/docker/cli/cli/compose/loader"
	dockertypes "github.com/docker/cli/cli/compose/types"
	"go.yaml.in/yaml/v3"
)

func parse(t testing.TB, src string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(src), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// service is a file of one service with what src says of it.
func service(src string) string {
	return "services:\n  a:\n    image: busybox\n    " + strings.ReplaceAll(src, "\n", "\n    ") + "\n"
}

func TestForm(t *testing.T) {
	for name, c := range map[string]struct {
		in, out, ignored, err string
	}{
		"nothing":              {in: "services: {a: {image: x}}", out: "services: {a: {image: x}}"},
		"name and version":     {in: "name: p\nversion: '3.7'\nservices: {a: {image: x}}", out: "services: {a: {image: x}}"},
		"ports":                {in: service("ports: [{mode: ingress, target: 80, published: \"8085\", protocol: tcp}]"), out: service("ports: [{mode: ingress, target: 80, published: 8085, protocol: tcp}]")},
		"port unpublished":     {in: service("ports: [{target: 80, published: \"\"}]"), out: service("ports: [{target: 80}]")},
		"port of an address":   {in: service("ports: [{target: 80, published: 80, host_ip: 127.0.0.1, name: web}]"), out: service("ports: [{target: 80, published: 80}]"), ignored: "services.a.ports.host_ip services.a.ports.name"},
		"range of ports":       {in: service("ports: [{target: 80, published: 80-90}]"), err: "services.a.ports: published \"80-90\" is not one port"},
		"depends_on":           {in: service("depends_on: {c: {condition: service_started, required: true}, b: {condition: service_healthy}}"), out: service("depends_on: [b, c]"), ignored: "services.a.depends_on.b"},
		"memory":               {in: service("mem_limit: \"100\"\ncpus: 0.5\npids_limit: 7\nmem_reservation: \"5\""), out: service("deploy: {resources: {limits: {memory: \"100\", cpus: \"0.5\", pids: 7}, reservations: {memory: \"5\"}}}")},
		"memory said twice":    {in: service("mem_limit: \"100\"\ndeploy: {resources: {limits: {memory: \"50\", cpus: 2}}}"), out: service("deploy: {resources: {limits: {memory: \"50\", cpus: \"2\"}}}")},
		"scale":                {in: service("scale: 3"), out: service("deploy: {replicas: 3}")},
		"restart":              {in: service("restart: on-failure:3"), out: service("deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}")},
		"no restart":           {in: service("restart: \"no\""), out: service("deploy: {restart_policy: {condition: none}}")},
		"restart_policy":       {in: service("restart: always\ndeploy: {restart_policy: {condition: none}}"), out: service("deploy: {restart_policy: {condition: none}}")},
		"host":                 {in: service("network_mode: host"), out: service("networks: {host: null}") + "networks: {host: {external: true, name: host}}"},
		"another's network":    {in: service("network_mode: service:b"), out: service("init: null"), ignored: "services.a.network_mode"},
		"modes of files":       {in: service("secrets: [{source: s, mode: \"0440\"}]"), out: service("secrets: [{source: s, mode: 288}]")},
		"bad mode":             {in: service("configs: [{source: s, mode: \"999\"}]"), err: "mode \"999\" is not an octal number"},
		"hosts":                {in: service("extra_hosts: [\"a=::1\", \"b:1.2.3.4\"]"), out: service("extra_hosts: [\"a:::1\", \"b:1.2.3.4\"]")},
		"mounts":               {in: service("volumes: [{type: bind, source: /x, target: /x, bind: {create_host_path: true, selinux: z}}, {type: tmpfs, target: /t, tmpfs: {size: \"10\", mode: 7}}]"), out: service("volumes: [{type: bind, source: /x, target: /x, bind: {}}, {type: tmpfs, target: /t, tmpfs: {size: 10}}]"), ignored: "services.a.volumes.bind.selinux services.a.volumes.tmpfs.mode"},
		"not in a swarm":       {in: service("container_name: x\nprivileged: true\nbuild: {context: .}\nprofiles: [p]\nexpose: [1]\ncommand: null\ndevelop: {}"), out: service("init: null"), ignored: "services.a.build services.a.container_name services.a.privileged"},
		"extensions":           {in: service("x-a: 1\ndeploy: {x-b: 1, replicas: 1}") + "x-c: 1", out: service("x-a: 1\ndeploy: {replicas: 1}") + "x-c: 1"},
		"networks":             {in: service("networks: {n: {aliases: [b], priority: 1}, m: null}") + "networks: {n: {driver: overlay, enable_ipv6: true, ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.1}]}}, m: null}", out: service("networks: {n: {aliases: [b]}, m: null}") + "networks: {n: {driver: overlay, ipam: {config: [{subnet: 10.0.0.0/24}]}}, m: null}", ignored: "networks.n.enable_ipv6 networks.n.ipam.config.gateway services.a.networks.n.priority"},
		"text of a config":     {in: service("init: true") + "configs: {c: {content: hello}}", out: service("init: true") + "configs: {c: {file: /configs.c=hello}}"},
		"secret of a variable": {in: service("init: true") + "secrets: {s: {environment: HUSH}}", out: service("init: true") + "secrets: {s: {file: /secrets.s=hush}}"},
		"no such variable":     {in: service("init: true") + "secrets: {s: {environment: NO}}", err: "secrets.s: environment variable NO is not set"},
		"models":               {in: service("models: [m]") + "models: {m: {model: x}}", out: service("init: null"), ignored: "models services.a.models"},
	} {
		t.Run(name, func(t *testing.T) {
			model := parse(t, c.in)
			got, ignored, err := Form(model, Options{
				Content:     func(kind, name, text string) (string, error) { return "/" + kind + "." + name + "=" + text, nil },
				Environment: func(name string) (string, bool) { return "hush", name == "HUSH" },
			})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := parse(t, c.out)
			if s, ok := want["services"].(map[string]any)["a"].(map[string]any); ok && s["init"] == nil {
				delete(s, "init")
			}
			if g, w := asYAML(t, got), asYAML(t, want); g != w {
				t.Errorf("got\n%swant\n%s", g, w)
			}
			if strings.Join(ignored, " ") != c.ignored {
				t.Errorf("ignored %q, want %q", ignored, c.ignored)
			}
			if g, w := asYAML(t, model), asYAML(t, parse(t, c.in)); g != w {
				t.Errorf("the model was changed to\n%s", g)
			}
			dockerTakes(t, got)
		})
	}
}

func asYAML(t testing.TB, v any) string {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dockerTakes has docker's own client read the form.
func dockerTakes(t testing.TB, form map[string]any) {
	t.Helper()
	if err := docker(form); err != nil {
		t.Errorf("docker refuses it: %v\n%s", err, asYAML(t, form))
	}
}

func TestEscape(t *testing.T) {
	if got := asYAML(t, Escape(parse(t, "a: [$x, {b: $$}, 3]"))); got != asYAML(t, parse(t, "a: [$$x, {b: $$$$}, 3]")) {
		t.Errorf("got %s", got)
	}
}

// docker has docker's own client understand a stack.
func docker(form map[string]any) error {
	_, err := dockerloader.Load(dockertypes.ConfigDetails{
		WorkingDir: "/", ConfigFiles: []dockertypes.ConfigFile{{Config: form}}, Environment: map[string]string{},
	}, func(o *dockerloader.Options) { o.SkipInterpolation = true })
	return err
}
