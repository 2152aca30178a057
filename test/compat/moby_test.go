package compat

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"holdfast.dev/holdfast/internal/testkit"
)

// tarOf is a tar file of one entry.
func tarOf(name, body string) io.Reader {
	return bytes.NewReader(testkit.Layer{name: {Body: body}}.Tar())
}

// untar is the first file of a tar stream.
func untar(r io.Reader) (name, body string, err error) {
	tr := tar.NewReader(r)
	h, err := tr.Next()
	if err != nil {
		return "", "", err
	}
	b, err := io.ReadAll(tr)
	return h.Name, string(b), err
}

// The Go client that docker's own command line is made of.
func TestMobyClient(t *testing.T) {
	d := shared.For(t)
	d.Image("busybox")
	c := d.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	is := func(name string, do func() error) { step(t, "moby/client", name, do) }
	var id string
	is("negotiates a version, info, disk usage", func() error {
		if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
			return err
		}
		info, err := c.Info(ctx, client.InfoOptions{})
		_, err2 := c.DiskUsage(ctx, client.DiskUsageOptions{})
		return errors.Join(err, err2, expect("root", info.Info.DockerRootDir, d.Root()))
	})
	is("create, start, wait, logs in two streams", func() error {
		made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name: "m1", Image: "busybox",
			Config: &container.Config{Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, Labels: map[string]string{"a": "b"}},
		})
		if err != nil {
			return err
		}
		wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		if _, err := c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
			return err
		}
		select {
		case err := <-wait.Error:
			return err
		case r := <-wait.Result:
			err = expect("code", fmt.Sprint(r.StatusCode), "3")
		}
		logs, lerr := c.ContainerLogs(ctx, made.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
		if lerr != nil {
			return errors.Join(err, lerr)
		}
		defer logs.Close()
		var out, stderr bytes.Buffer
		_, lerr = stdcopy.StdCopy(&out, &stderr, logs)
		return errors.Join(err, lerr, expect("logs", out.String()+stderr.String(), "out\nerr\n"))
	})
	is("a container that stays, events of its start", func() error {
		ectx, stop := context.WithCancel(ctx)
		defer stop()
		events := c.Events(ectx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "container").Add("event", "start")})
		made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "m2", Image: "busybox", Config: &container.Config{Cmd: []string{"sleep", "600"}}, HostConfig: &container.HostConfig{Init: new(true)}})
		if err != nil {
			return err
		}
		id = made.ID
		if _, err := c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return err
		}
		select {
		case m := <-events.Messages:
			return errors.Join(expect("event of", m.Actor.ID, id), expect("name", m.Actor.Attributes["name"], "m2"))
		case err := <-events.Err:
			return err
		}
	})
	is("archive: put, stat, get", func() error {
		if _, err := c.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: tarOf("put", "body")}); err != nil {
			return err
		}
		st, err := c.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/tmp/put"})
		if err != nil {
			return err
		}
		got, err := c.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/tmp/put"})
		if err != nil {
			return err
		}
		defer got.Content.Close()
		name, body, err := untar(got.Content)
		_, none := c.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/absent"})
		if !errdefs.IsNotFound(none) {
			err = errors.Join(err, fmt.Errorf("stat of nothing: %w", none))
		}
		return errors.Join(err, expect("entry", name+" "+body, "put body"), expect("stat", fmt.Sprint(st.Stat.Name, " ", st.Stat.Size), "put 4"))
	})
	is("stats, top, update", func() error {
		s, err := c.ContainerStats(ctx, id, client.ContainerStatsOptions{})
		if err != nil {
			return err
		}
		defer s.Body.Close()
		var v container.StatsResponse
		if err := json.NewDecoder(s.Body).Decode(&v); err != nil {
			return err
		}
		top, err := c.ContainerTop(ctx, id, client.ContainerTopOptions{})
		if err != nil || len(top.Processes) == 0 {
			return fmt.Errorf("top: %v, %w", top, err)
		}
		_, err = c.ContainerUpdate(ctx, id, client.ContainerUpdateOptions{Resources: &container.Resources{CPUShares: 512}})
		return errors.Join(err, expect("stats of", v.ID, id))
	})
	is("networks and volumes", func() error {
		if _, err := c.NetworkCreate(ctx, "n1", client.NetworkCreateOptions{Driver: "bridge"}); err != nil {
			return err
		}
		_, err := c.NetworkConnect(ctx, "n1", client.NetworkConnectOptions{Container: id, EndpointConfig: &network.EndpointSettings{Aliases: []string{"other"}}})
		if err != nil {
			return err
		}
		got, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		if ep := got.Container.NetworkSettings.Networks["n1"]; ep == nil || !ep.IPAddress.IsValid() {
			return fmt.Errorf("endpoint: %+v", ep)
		}
		v, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "v1"})
		return errors.Join(err, expect("volume", v.Volume.Driver, "local"))
	})
	is("commit, tag, save, remove", func() error {
		made, err := c.ContainerCommit(ctx, id, client.ContainerCommitOptions{Reference: "made:1", Changes: []string{"ENV X=y"}})
		if err != nil {
			return err
		}
		if _, err := c.ImageTag(ctx, client.ImageTagOptions{Source: made.ID, Target: "made:2"}); err != nil {
			return err
		}
		img, err := c.ImageInspect(ctx, "made:2")
		if err != nil {
			return err
		}
		saved, err := c.ImageSave(ctx, []string{"made:1"})
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, saved)
		err = errors.Join(err, saved.Close(), holds("env", strings.Join(img.Config.Env, " "), "X=y"))
		if n < 1<<20 {
			err = errors.Join(err, fmt.Errorf("saved %d bytes", n))
		}
		_, err2 := c.ImageRemove(ctx, "made:1", client.ImageRemoveOptions{})
		_, err3 := c.ImageRemove(ctx, "made:2", client.ImageRemoveOptions{})
		return errors.Join(err, err2, err3)
	})
	is("list, prune, errors by class", func() error {
		all, err := c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "a=b")})
		if err != nil || len(all.Items) != 1 {
			return fmt.Errorf("list: %v, %w", all.Items, err)
		}
		if _, err := c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{}); !errdefs.IsConflict(err) {
			return fmt.Errorf("remove of a running one: %w", err)
		}
		if _, err := c.ContainerRemove(ctx, "absent", client.ContainerRemoveOptions{}); !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove of none: %w", err)
		}
		_, err = c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
		_, err2 := c.ContainerPrune(ctx, client.ContainerPruneOptions{})
		return errors.Join(err, err2)
	})
}

// What an editor that works in a container does: a container that waits, one
// long-lived shell in it that gets commands one after another, a server put
// there as a tar stream, ports and exit codes asked for.
func TestEditorInAContainer(t *testing.T) {
	d := shared.For(t)
	d.Image("busybox")
	c := d.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	is := func(name string, do func() error) { step(t, "editor (exec and archive)", name, do) }
	is("starts by command line, found by label", func() error {
		d.Docker("run", "-d", "--name", "dev", "--label", "devcontainer.local_folder=/src", "--mount", "type=bind,source="+t.TempDir()+",target=/workspace,consistency=cached",
			"-e", "REMOTE=1", "--init", "--entrypoint", "/bin/sh", "busybox", "-c", `echo Container started; trap "exit 0" 15; exec "$@"; while sleep 1 & wait $!; do :; done`, "-")
		id := d.Docker("ps", "-q", "-a", "--no-trunc", "--filter", "label=devcontainer.local_folder=/src")
		return expect("found", d.Docker("inspect", "--type", "container", "-f", "{{.Id}}", "dev"), id)
	})
	is("one shell for many commands", func() error {
		made, err := c.ExecCreate(ctx, "dev", client.ExecCreateOptions{
			Cmd: []string{"/bin/sh"}, User: "0", Env: []string{"VSCODE=1"}, WorkingDir: "/workspace", AttachStdin: true, AttachStdout: true, AttachStderr: true,
		})
		if err != nil {
			return err
		}
		att, err := c.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
		if err != nil {
			return err
		}
		defer att.Close()
		out, in := io.Pipe()
		var stderr bytes.Buffer
		done := make(chan error, 1)
		go func() {
			_, err := stdcopy.StdCopy(in, &stderr, att.Reader)
			_ = in.Close()
			done <- err
		}()
		for n, command := range []string{"pwd", "echo $VSCODE $REMOTE", "id -u", "echo wrong >&2; (exit 7)"} {
			// A marker tells where the output of a command ends, and its code.
			if _, err := fmt.Fprintf(att.Conn, "%s\necho \"␄$?␄\"\n", command); err != nil {
				return err
			}
			want := []string{"/workspace\n␄0␄\n", "1 1\n␄0␄\n", "0\n␄0␄\n", "␄7␄\n"}[n]
			got := make([]byte, len(want))
			if _, err := io.ReadFull(out, got); err != nil {
				return err
			}
			if err := expect(command, string(got), want); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(att.Conn, "exit 7\n"); err != nil {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
		st, err := c.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
		return errors.Join(err, expect("stderr", stderr.String(), "wrong\n"), expect("ended", fmt.Sprint(st.Running, st.ExitCode), "false 7"))
	})
	is("a server is put there through a pipe and through the archive", func() error {
		body := strings.Repeat("0123456789abcdef", 1<<16)
		if _, err := c.CopyToContainer(ctx, "dev", client.CopyToContainerOptions{DestinationPath: "/root", Content: tarOf("server/bin", body)}); err != nil {
			return err
		}
		r := d.Run(body, "docker", "exec", "-i", "dev", "sh", "-c", "cat > /root/piped; cmp /root/piped /root/server/bin && wc -c < /root/piped")
		if err := expect("piped", strings.TrimSpace(r.Out), fmt.Sprint(len(body))); err != nil {
			return errors.Join(err, errors.New(r.String()))
		}
		return expect("docker cp -", fmt.Sprint(len(d.Docker("cp", "dev:/root/server", "-")) > len(body)), "true")
	})
	is("a terminal that is resized", func() error {
		made, err := c.ExecCreate(ctx, "dev", client.ExecCreateOptions{Cmd: []string{"sh"}, TTY: true, AttachStdin: true, AttachStdout: true})
		if err != nil {
			return err
		}
		att, err := c.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: true})
		if err != nil {
			return err
		}
		defer att.Close()
		if _, err := c.ExecResize(ctx, made.ID, client.ExecResizeOptions{Height: 31, Width: 97}); err != nil {
			return err
		}
		if _, err := io.WriteString(att.Conn, "stty size; exit\n"); err != nil {
			return err
		}
		b, err := io.ReadAll(att.Reader)
		return errors.Join(err, holds("size", string(b), "31 97"))
	})
	is("stops at once on SIGTERM", func() error {
		d.Docker("stop", "-t", "10", "dev")
		return expect("code", d.Docker("inspect", "-f", "{{.State.ExitCode}}", "dev"), "0")
	})
}
