package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the golden files")

// The reference in docs/ops is written from the flags, so that it cannot say
// anything else than the daemon.
func TestReferenceIsCurrent(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "ops", "daemon-json.md")
	got := reference()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the flags say: make golden-update writes it anew", path)
	}
}

func reference() string {
	c := Default()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	bind(fs, &c)
	flags := map[string][]string{}
	about := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) {
		key, name := keyOf(f), "`--"+f.Name+"`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		flags[key] = append(flags[key], name)
		if about[key] == nil || f.Name == key {
			about[key] = f
		}
	})
	var b strings.Builder
	b.WriteString(`# daemon.json

<!-- Written by internal/daemon/config (make golden-update). Change the flags, not this file. -->

The daemon reads ` + "`" + DefaultFile + "`" + `, or the file that ` + "`--config-file`" + ` names. Every key
is a flag too; a key given both ways is refused, and so is one that is unknown.
` + "`holdfastd --validate`" + ` checks without starting. On SIGHUP (` + "`systemctl reload holdfast`" + `)
the keys marked *live* take effect at once; the daemon's log names the others
that changed, which wait for its restart.

Lists are JSON lists, maps JSON objects; sizes are numbers or texts such as
` + "`\"64m\"`" + `. ` + "`default-ulimits`" + ` is ` + "`{\"nofile\": {\"Name\": \"nofile\", \"Soft\": 1024, \"Hard\": 4096}}`" + `,
` + "`default-address-pools`" + ` is ` + "`[{\"base\": \"10.10.0.0/16\", \"size\": 24}]`" + `,
` + "`storage-policy`" + ` is ` + "`{\"high-water\": \"85%\", \"low-water\": \"75%\", \"images\": {\"keep-last\": 2, \"keep-until\": \"7d\", \"keep-if-label\": [\"keep\"]}, \"containers\": {\"keep-until\": \"24h\"}, \"build-cache\": {\"keep-until\": \"48h\"}, \"snapshots\": {\"keep-last\": 5}, \"trash\": {\"keep-until\": \"1d\"}, \"logs\": {\"keep-last\": 2}}`" + `
(docs/design/usage.md), ` + "`backup`" + ` is ` + "`{\"schedule\": \"@daily\", \"keep\": \"last=3,daily=7,weekly=4\", \"repository\": \"nas\"}`" + ` (docs/design/backup.md).

| key | flag | type | default | |
|---|---|---|---|---|
`)
	for _, key := range keys() {
		f := about[key]
		def := f.DefValue
		if def == "[]" || def == "map[]" || def == "invalid IP" {
			def = ""
		}
		if def != "" {
			def = "`" + def + "`"
		}
		text := strings.ReplaceAll(f.Usage, "|", `\|`)
		if reloadable(key) {
			text += " *(live)*"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", key, strings.Join(flags[key], " "), f.Value.Type(), def, text)
	}
	b.WriteString(`
## Keys of Docker's that are refused

Each is refused with the reason, so that no setting is silently lost.

| key | why |
|---|---|
`)
	for _, key := range dockersKeys {
		why := unserved(key)
		if why == "" {
			why = "?"
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", key, why)
	}
	return b.String()
}

// dockersKeys are those of Docker's reference that Holdfast has not.
var dockersKeys = slices.Sorted(slices.Values([]string{
	"iptables", "ip6tables", "firewall-backend", "ip-forward-no-drop", "allow-direct-routing", "userland-proxy-path",
	"containerd", "containerd-namespace", "containerd-plugin-namespace", "metrics-addr", "experimental",
	"node-generic-resources", "swarm-default-advertise-addr", "authorization-plugins", "builder", "userns-remap",
	"selinux-enabled", "runtimes", "default-runtime", "storage-opts", "cpu-rt-period", "cpu-rt-runtime",
	"network-control-plane-mtu", "network-diagnostic-port", "default-network-opts", "default-gateway",
	"default-gateway-v6", "bip6", "host-gateway-ip", "host-gateway-ips", "max-download-attempts",
	"min-api-version", "raw-logs", "http-proxy", "https-proxy", "no-proxy", "proxies",
}))

func TestEveryRefusedKeyHasAReason(t *testing.T) {
	for _, key := range dockersKeys {
		if unserved(key) == "" {
			t.Errorf("%s is refused without a reason", key)
		}
		if slices.Contains(keys(), key) {
			t.Errorf("%s is served", key)
		}
	}
}
