package testkit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// PluginDir makes what `docker plugin create` takes: a plugin made with Docker's own
// library as a root file system of one static program, and its config, which
// change may change. Each volume is a tmpfs that the plugin mounts, with a file
// "greeting"; the variable GREETING can be set.
func PluginDir(t testing.TB, version string, change func(config map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"rootfs/run/docker/plugins", "rootfs/data", "rootfs/etc", "rootfs/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	RequireProgram(t, "go")
	program, err := volplugin()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/volplugin"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	config := map[string]any{
		"description": "volumes of version " + version,
		"entrypoint":  []string{"/volplugin", "/run/docker/plugins/vol.sock", "/data"},
		"interface":   map[string]any{"types": []string{"docker.volumedriver/1.0"}, "socket": "vol.sock"},
		"env": []map[string]any{
			{"name": "GREETING", "settable": []string{"value"}, "value": "hello " + version},
			{"name": "VOLPLUGIN_MOUNT", "value": "tmpfs"},
		},
		"network":         map[string]any{"type": "none"},
		"linux":           map[string]any{"capabilities": []string{"CAP_SYS_ADMIN"}},
		"propagatedmount": "/data",
	}
	if change != nil {
		change(config)
	}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
