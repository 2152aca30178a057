package cli

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/streams"
	"github.com/moby/moby/client/pkg/jsonmessage"
	"github.com/moby/moby/client/pkg/progress"
	"github.com/moby/moby/client/pkg/streamformatter"
	"github.com/spf13/cobra"
)

// showImports lets both commands that import a file show on a terminal how much
// of it is sent. Docker's own say nothing until the end.
func (r *root) showImports() {
	for _, path := range [][]string{{"import"}, {"image", "import"}} {
		cmd, _, err := r.cmd.Find(path)
		if err != nil || cmd.RunE == nil {
			panic("docker/cli no longer has " + strings.Join(path, " "))
		}
		inner := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if !r.cli.Err().IsTerminal() || remote(args[0]) {
				return inner(cmd, args)
			}
			sent, end, err := sending(args[0], r.cli.Err())
			if err != nil {
				return err
			}
			// The file is sent as standard input, which docker/cli does with files, too.
			stdin := r.cli.In()
			r.cli.SetIn(streams.NewIn(sent))
			args = slices.Clone(args)
			args[0] = "-"
			err = inner(cmd, args)
			r.cli.SetIn(stdin)
			return errors.Join(err, end())
		}
	}
}

// remote tells sources that are no file of ours.
func remote(source string) bool {
	return source == "-" || strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

// sending opens a file and shows on out how much of it was read. end closes it
// and waits until all is shown.
func sending(name string, out *streams.Out) (_ io.ReadCloser, end func() error, _ error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	var size int64 // 0: not known, as of a pipe
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
		size = fi.Size()
	}
	messages, w := io.Pipe()
	shown := make(chan error, 1)
	go func() {
		err := jsonmessage.DisplayJSONMessagesStream(messages, out, out.FD(), out.IsTerminal(), nil)
		_ = messages.CloseWithError(err) // always nil
		shown <- err
	}()
	file := progress.NewProgressReader(f, streamformatter.NewJSONProgressOutput(w, true), size, "", "Importing")
	return file, func() error {
		err := f.Close()
		if errors.Is(err, os.ErrClosed) {
			err = nil // by the transport, once it had sent it
		}
		_ = w.Close() // always nil
		return errors.Join(err, <-shown)
	}, nil
}
