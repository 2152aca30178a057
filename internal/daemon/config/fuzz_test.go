package config

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func FuzzDaemonJSON(f *testing.F) {
	for _, s := range []string{
		``, "\xef\xbb\xbf{}", `null`, `[]`, `{"hosts":["tcp://127.0.0.1:2376","fd://"],"tls":true,"tlscacert":"/a"}`,
		`{"bip":"10.0.0.1/24","fixed-cidr":"10.0.0.0/25","default-address-pools":[{"base":"10.0.0.0/8","size":24},{"base":"::/0","size":999}],"dns":["1.1.1.1"],"mtu":-1}`,
		`{"log-driver":"local","log-opts":{"max-size":"1m"},"default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}},"default-shm-size":"64M"}`,
		`{"insecure-registries":["10.0.0.0/8","a:5000"],"registry-mirrors":["https://m"],"labels":["a=b"],"exec-opts":["native.cgroupdriver=cgroupfs"],"root":"/x"}`,
		`{"a":1,"root":"/x"} {}`, `{"ulimits":null,"hosts":null,"labels":[null]}`, `{"ROOT":"/y","Root":"/x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "daemon.json")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd, err := Parse([]string{"--config-file", file}, io.Discard)
		if err != nil {
			return
		}
		if !filepath.IsAbs(cmd.Config.Root) || !filepath.IsAbs(cmd.Config.ExecRoot) || len(cmd.Config.Hosts) == 0 {
			t.Errorf("%s is accepted: root %q, exec-root %q, hosts %q", content, cmd.Config.Root, cmd.Config.ExecRoot, cmd.Config.Hosts)
		}
		_, _, _ = cmd.Config.Reload(cmd.Config)
	})
}
