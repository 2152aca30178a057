package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func pluginPid(t *testing.T, root string) string {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		cmd, err := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
		if err != nil || !strings.HasPrefix(string(cmd), "/volplugin\x00/run/docker/plugins/") {
			continue
		}
		if m, err := os.ReadFile(filepath.Join(filepath.Dir(p), "mountinfo")); err == nil && strings.Contains(string(m), root) {
			return filepath.Base(filepath.Dir(p))
		}
	}
	return ""
}

// The notes' plugin: installed from a registry under another name, looked into,
// set up, used by volumes, and there again after whatever happens.
func TestManagedPlugin(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its plugins are the machine's")
	d := own(t, testkit.Options{})
	r := newRegistry(t, d, registryOptions{})
	remote := r.addr + "/team/storage:1"
	d.Docker("plugin", "create", remote, testkit.PluginDir(t, "one", nil))
	d.DockerFails(fmt.Sprintf("plugin %q already exists", remote), "plugin", "create", remote, testkit.PluginDir(t, "one", nil))
	contains(t, "push", d.Docker("plugin", "push", remote), "digest: sha256:")
	d.Docker("plugin", "rm", remote)
	equal(t, "none", d.Docker("plugin", "ls", "-q"), "")

	d.DockerFails("did not find plugin config", "plugin", "install", "--grant-all-permissions", pushedImage(d, r))
	d.Docker("plugin", "install", "--grant-all-permissions", "--alias", "cloudstor:azure", remote, "GREETING=from us")
	equal(t, "listed", d.Docker("plugin", "ls", "--format", "{{.Name}} {{.Enabled}} {{.Description}}"), "cloudstor:azure true volumes of version one")
	equal(t, "settings", d.Docker("plugin", "inspect", "-f", "{{.Settings.Env}} {{.PluginReference}}", "cloudstor:azure"), "[VOLPLUGIN_MOUNT=tmpfs GREETING=from us] "+remote)
	equal(t, "volume plugins listed", d.Docker("plugin", "ls", "-q", "--filter", "capability=volumedriver", "--filter", "enabled=true"), d.Docker("plugin", "ls", "-q"))
	equal(t, "others", d.Docker("plugin", "ls", "-q", "--filter", "capability=authz"), "")

	// A mount that the plugin makes is what the container sees.
	d.Docker("volume", "create", "-d", "cloudstor:azure", "cache")
	read := func() string { return d.Docker("run", "--rm", "-v", "cache:/d", "busybox", "cat", "/d/greeting") }
	equal(t, "in the container", read(), "from us")
	contains(t, "info", d.Docker("info", "-f", "{{.Plugins.Volume}}"), "cloudstor:azure")
	d.DockerFails("is in use", "plugin", "disable", "cloudstor:azure")
	d.DockerFails("is in use", "plugin", "rm", "cloudstor:azure")
	d.DockerFails("cannot set on an active plugin", "plugin", "set", "cloudstor:azure", "GREETING=x")
	d.DockerFails("is already enabled", "plugin", "enable", "cloudstor:azure")

	// The daemon is killed: the plugin goes on, and so does who uses it.
	up(d, "--name", "user", "-v", "cache:/d", "busybox", "sleep", "1000")
	pid := pluginPid(t, d.Root())
	if pid == "" {
		t.Fatal("the plugin's process is not found")
	}
	d.Kill()
	d.Start()
	equal(t, "the plugin's process", pluginPid(t, d.Root()), pid)
	equal(t, "still there", d.Docker("exec", "user", "cat", "/d/greeting"), "from us")
	equal(t, "after the restart", read(), "from us")

	// The plugin is killed: it is started again.
	n := 0
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.Eventually(settle, "the plugin is back", func() (bool, string) {
		now := pluginPid(t, d.Root())
		return now != "" && now != pid, now
	})
	d.Docker("rm", "-f", "user")
	equal(t, "with the new one", read(), "from us")

	// Both are killed.
	d.Kill()
	if err := syscall.Kill(atoi(t, pluginPid(t, d.Root())), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.Start()
	equal(t, "after both", read(), "from us")

	// Another version in its place.
	two := r.addr + "/team/storage:2"
	d.Docker("plugin", "create", two, testkit.PluginDir(t, "two", nil))
	d.Docker("plugin", "push", two)
	d.DockerFails("plugin must be disabled before upgrading", "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "cloudstor:azure", two)
	d.Docker("plugin", "disable", "-f", "cloudstor:azure")
	equal(t, "nothing runs", pluginPid(t, d.Root()), "")
	d.DockerFails(`plugin "cloudstor:azure" found but disabled`, "run", "--rm", "-v", "cache:/d", "busybox", "true")
	d.Docker("plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "cloudstor:azure", two)
	d.Docker("plugin", "enable", "cloudstor:azure")
	equal(t, "the new version", read(), "hello two")

	d.Docker("volume", "rm", "cache")
	d.Docker("plugin", "disable", "cloudstor:azure")
	d.Docker("plugin", "rm", "cloudstor:azure", two)
	es, err := os.ReadDir(filepath.Join(d.Path(d.Root()), "plugins"))
	if err != nil || len(es) != 0 {
		t.Errorf("left of the plugins: %v, %v", es, err)
	}
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func pushedImage(d *testkit.Daemon, r *registry) string {
	d.Image("busybox")
	name := r.addr + "/busybox:image"
	d.Docker("tag", "busybox", name)
	d.Docker("push", name)
	return name
}

func TestManagedPluginsThatAreRefused(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its plugins are the machine's")
	d := own(t, testkit.Options{})
	for _, c := range []struct {
		name, want string
		change     func(c map[string]any)
	}{
		{"socket", "interface.socket must be the plain name of a socket", func(c map[string]any) {
			c["interface"] = map[string]any{"types": []string{"docker.volumedriver/1.0"}, "socket": "../../x.sock"}
		}},
		{"entrypoint", "names no entrypoint", func(c map[string]any) { delete(c, "entrypoint") }},
	} {
		d.DockerFails(c.want, "plugin", "create", c.name, testkit.PluginDir(t, "x", c.change))
	}
	d.Docker("plugin", "create", "net", testkit.PluginDir(t, "x", func(c map[string]any) {
		c["interface"] = map[string]any{"types": []string{"docker.networkdriver/1.0"}, "socket": "vol.sock"}
	}))
	d.DockerFails("docker.networkdriver/1.0, which is not supported", "plugin", "enable", "net")
	// One that ends at once, and one that never listens.
	d.Docker("plugin", "create", "ends", testkit.PluginDir(t, "x", func(c map[string]any) { c["entrypoint"] = []string{"/volplugin"} }))
	d.DockerFails("it ended with code 1", "plugin", "enable", "ends")
	d.Docker("plugin", "create", "deaf", testkit.PluginDir(t, "x", func(c map[string]any) {
		c["entrypoint"] = []string{"/volplugin", "/run/docker/plugins/other.sock", "/data"}
	}))
	d.DockerFails("it does not listen on vol.sock after 1s", "plugin", "enable", "--timeout", "1", "deaf")
	equal(t, "none runs", pluginPid(t, d.Root()), "")
	d.DockerFails(`setting "NOPE" not found in the plugin configuration`, "plugin", "set", "deaf", "NOPE=1")
	d.DockerFails(`"VOLPLUGIN_MOUNT" is not settable`, "plugin", "set", "deaf", "VOLPLUGIN_MOUNT=1")
	d.DockerFails("invalid filter 'nonsense'", "plugin", "ls", "--filter", "nonsense=1")
	d.Docker("plugin", "rm", "net", "ends", "deaf")
}
