package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client/pkg/jsonmessage"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

func runVolumePush(ctx context.Context, dockerCli command.Cli, o exportOptions) error {
	volume, snapshot, _ := strings.Cut(o.target, "@")
	auth, err := command.RetrieveAuthTokenFromImage(dockerCli.ConfigFile(), o.registry)
	if err != nil {
		return err
	}
	return withHoldfast(dockerCli, func(hf *client.Client) error {
		var got api.VolumePushed
		eo := client.ExportOptions{Snapshot: snapshot, Live: o.live}
		err := hf.PushVolume(ctx, volume, o.registry, auth, eo, func(r io.Reader) error { return showMessages(dockerCli, r, &got) })
		if err == nil {
			fmt.Fprintln(dockerCli.Out(), got.Ref+"@"+got.Digest)
		}
		return err
	})
}

func runVolumePull(ctx context.Context, dockerCli command.Cli, volume, ref string, o client.ImportOptions) error {
	auth, err := command.RetrieveAuthTokenFromImage(dockerCli.ConfigFile(), ref)
	if err != nil {
		return err
	}
	return withHoldfast(dockerCli, func(hf *client.Client) error {
		var got api.VolumeImported
		err := hf.PullVolume(ctx, volume, ref, auth, o, func(r io.Reader) error { return showMessages(dockerCli, r, &got) })
		if err == nil {
			fmt.Fprintln(dockerCli.Out(), got.Name)
			fmt.Fprintf(dockerCli.Err(), "%d files, %s\n", got.Files, units.HumanSize(float64(got.Bytes)))
		}
		return err
	})
}

// showMessages shows on STDERR how something gets on and reads what came of it. A
// stream that ends without that was cut off.
func showMessages(dockerCli command.Cli, from io.Reader, result any) error {
	var (
		seen bool
		aerr error
	)
	err := jsonmessage.DisplayJSONMessagesStream(from, dockerCli.Err(), dockerCli.Err().FD(), dockerCli.Err().IsTerminal(), func(m jsonstream.Message) {
		if m.Aux != nil {
			seen, aerr = true, json.Unmarshal(*m.Aux, result)
		}
	})
	switch {
	case err != nil:
		return err
	case aerr != nil:
		return fmt.Errorf("decode what came of it: %w", aerr)
	case !seen:
		return fmt.Errorf("what the daemon told was cut off: %w", io.ErrUnexpectedEOF)
	}
	return nil
}
