package compat

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/holdfast/internal/testkit"
)

// sshServer lets holders of key run commands, as sshd does, with env added. It
// returns its address.
func sshServer(t *testing.T, key ssh.PublicKey, env []string) string {
	t.Helper()
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil //nolint:nilnil // no permissions to speak of
	}}
	config.AddHostKey(signer)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() { serveSSH(t, c, config, env) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func serveSSH(t *testing.T, c net.Conn, config *ssh.ServerConfig, env []string) {
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		_ = c.Close()
		return // the client tells
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for nc := range channels {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			var payload struct{ Command string }
			run := r.Type == "exec" && ssh.Unmarshal(r.Payload, &payload) == nil
			_ = r.Reply(run || r.Type == "env", nil) // fails with the connection
			if run {
				go execSSH(t, ch, payload.Command, env)
			}
		}
	}
}

func execSSH(t *testing.T, ch ssh.Channel, command string, env []string) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Errorf("ssh server: %v", err)
		_ = ch.Close()
		return
	}
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := ch.Read(buf)
			if _, werr := in.Write(buf[:n]); err != nil || werr != nil {
				_ = in.Close() // the command sees the end
				return
			}
		}
	}()
	_ = cmd.Wait() // the code tells
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(max(0, cmd.ProcessState.ExitCode()))}))
	_ = ch.Close()
}

// Docker's clients reach a remote engine through ssh, where docker's own
// `system dial-stdio` is the far end.
func TestOverSSH(t *testing.T) {
	sshProgram := testkit.RequireProgram(t, "ssh")
	d := shared.For(t)
	d.Image("busybox")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	addr := sshServer(t, signer.PublicKey(), []string{"DOCKER_HOST=" + d.Host(), "DOCKER_CONTEXT="})
	// ssh asks the user database for the home folder, not HOME: the wrapper gives it a configuration.
	for file, body := range map[string]string{
		"key":    string(pem.EncodeToMemory(block)),
		"config": fmt.Sprintf("IdentityFile %s/key\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n", dir),
		"ssh":    fmt.Sprintf("#!/bin/sh\nexec %s -F %s/config \"$@\"\n", sshProgram, dir),
	} {
		mode := os.FileMode(0o600)
		if file == "ssh" {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(body), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	programs := []string{testkit.RequireProgram(t, "docker")}
	if engine != testkit.Dockerd {
		programs = append(programs, testkit.RequireBin(t, "holdfast"))
	}
	host := "ssh://root@" + addr
	for _, program := range programs {
		for _, tc := range []struct {
			stdin, out string
			code       int
			args       []string
		}{
			{"", d.Root() + "\n", 0, []string{"info", "-f", "{{.DockerRootDir}}"}},
			{"over ssh\n", "over ssh\n", 0, []string{"run", "--rm", "-i", "busybox", "cat"}},
			{"", "", 9, []string{"run", "--rm", "busybox", "sh", "-c", "exit 9"}},
		} {
			r := d.Run(tc.stdin, program, append([]string{"-H", host}, tc.args...)...)
			if r.Code != tc.code || r.Out != tc.out {
				t.Errorf("want %d %q: %s", tc.code, tc.out, r)
			}
		}
	}
	// As a context.
	create := d.Run("", programs[0], "context", "create", "far", "--docker", "host="+host)
	if create.Code != 0 {
		t.Fatalf("%s", create)
	}
	if r := d.Run("", programs[0], "--context", "far", "ps"); r.Code != 0 || !strings.HasPrefix(r.Out, "CONTAINER ID") {
		t.Errorf("%s", r)
	}
}
