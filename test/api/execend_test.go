package api

import (
	"context"
	"testing"

	"github.com/moby/moby/client"
)

// An exec that makes its container end comes to an end with it: the client is
// not left waiting.
func TestExecThatEndsItsContainer(t *testing.T) {
	d := daemon(t)
	c := d.Client()
	for i := range 20 {
		up(d, "--name", "short", "busybox", "sh", "-c", "until [ -e /go ]; do usleep 2000; done")
		made, err := c.ExecCreate(t.Context(), "short", client.ExecCreateOptions{Cmd: []string{"touch", "/go"}, AttachStdout: true, AttachStderr: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), settle)
		att, err := c.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stop := context.AfterFunc(ctx, func() { att.Close() })
		for err == nil {
			_, err = att.Reader.ReadByte()
		}
		if !stop() {
			t.Fatalf("round %d: the exec has no end", i)
		}
		att.Close()
		cancel()
		d.Docker("rm", "-f", "short")
	}
}
