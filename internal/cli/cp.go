package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	archive "github.com/moby/go-archive"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

func newVolumeCopy(dockerCli command.Cli) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] SRC|- DEST|-",
		Short: "Copy files between volumes, containers and this machine",
		Long: `Copy files between volumes, containers and this machine. SRC and DEST are

    VOLUME:/path             in a volume
    VOLUME@SNAPSHOT:/path    in a snapshot of one, to copy from
    container:NAME:/path     in a container
    /path, ./path            on this machine
    -                        a tar at STDIN or STDOUT

and one of them is in a volume. What "cp" makes of directories and names is as
docker's: DIR/. is what is in a directory. Owners and modes are kept. No container is
needed; those that run with the volume see the files at once.`,
		Args: dockercli.ExactArgs(2),
		Example: `  holdfast volume cp ./dump.sql data:/import/
  holdfast volume cp data@before:/etc/app.conf .
  holdfast volume cp data:/. copy:/
  holdfast volume cp container:web:/var/log/nginx logs:/`,
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				from, to := splitPlace(args[0]), splitPlace(args[1])
				if from.kind != inVolume && to.kind != inVolume {
					return fmt.Errorf("neither %q nor %q is in a volume (VOLUME:/path)", args[0], args[1])
				}
				return copyFiles(cmd.Context(), copier{hf, dockerCli, follow}, from, to)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow-link", "L", false, "Always follow symbolic links in SRC")
	return cmd
}

// Kinds of places.
const (
	onHost = iota
	inVolume
	inContainer
	inStream
)

// place is one side of a copy.
type place struct {
	kind       int
	name, path string // of the volume or container; in it
}

// containerPlace says that a container is meant, not a volume.
const containerPlace = "container:"

// splitPlace reads an argument as docker cp does: what begins with a slash or a dot,
// or has no colon, is on this machine.
func splitPlace(arg string) place {
	if arg == "-" {
		return place{kind: inStream}
	}
	kind, rest := inVolume, arg
	if of, ok := strings.CutPrefix(arg, containerPlace); ok && strings.Contains(of, ":") && !strings.HasPrefix(of, "/") {
		kind, rest = inContainer, of
	}
	name, path, ok := strings.Cut(rest, ":")
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") || !ok {
		return place{kind: onHost, path: arg}
	}
	return place{kind: kind, name: name, path: path}
}

// String is the place as it was written.
func (p place) String() string {
	switch p.kind {
	case inVolume:
		return p.name + ":" + p.path
	case inContainer:
		return containerPlace + p.name + ":" + p.path
	}
	return p.path
}

// copier knows how to reach places.
type copier struct {
	hf     *client.Client
	cli    command.Cli
	follow bool
}

// stat describes a file of a volume or container; a link is not followed.
func (c copier) stat(ctx context.Context, p place) (api.PathStat, error) {
	if p.kind == inVolume {
		return c.hf.StatVolumeFile(ctx, p.name, p.path)
	}
	r, err := c.cli.Client().ContainerStatPath(ctx, p.name, mobyclient.ContainerStatPathOptions{Path: p.path})
	return api.PathStat{Name: r.Stat.Name, Size: r.Stat.Size, Mode: uint32(r.Stat.Mode), Mtime: r.Stat.Mtime, LinkTarget: r.Stat.LinkTarget}, err
}

// behind is where a link leads to.
func behind(p place, target string) place {
	if !filepath.IsAbs(target) {
		dir, _ := archive.SplitPathDirEntry(p.path)
		target = filepath.Join(dir, target)
	}
	p.path = target
	return p
}

// read hands what is at a place to take, as a tar.
func (c copier) read(ctx context.Context, p place, take func(archive.CopyInfo, io.Reader) error) error {
	if p.kind == inStream {
		return take(archive.CopyInfo{}, c.cli.In())
	}
	if p.kind == onHost {
		abs, err := absolute(p.path)
		if err != nil {
			return err
		}
		info, err := archive.CopyInfoSourcePath(abs, c.follow)
		if err != nil {
			return err
		}
		tar, err := archive.TarResource(info)
		if err != nil {
			return err
		}
		defer tar.Close()
		return take(info, tar)
	}
	var rebase string
	if c.follow {
		if st, err := c.stat(ctx, p); err == nil && fs.FileMode(st.Mode)&fs.ModeSymlink != 0 {
			at := behind(p, st.LinkTarget)
			at.path, rebase = archive.GetRebaseName(p.path, at.path)
			p = at
		}
	}
	give := func(dir bool, tar io.Reader) error {
		info := archive.CopyInfo{Path: p.path, Exists: true, IsDir: dir, RebaseName: rebase}
		if rebase != "" {
			_, base := archive.SplitPathDirEntry(p.path)
			named := archive.RebaseArchiveEntries(tar, base, rebase)
			defer named.Close()
			tar = named
		}
		return take(info, tar)
	}
	if p.kind == inVolume {
		return c.hf.ReadVolumeFiles(ctx, p.name, p.path, func(st api.PathStat, tar io.Reader) error {
			return give(fs.FileMode(st.Mode).IsDir(), tar)
		})
	}
	r, err := c.cli.Client().CopyFromContainer(ctx, p.name, mobyclient.CopyFromContainerOptions{SourcePath: p.path})
	if err != nil {
		return err
	}
	defer r.Content.Close()
	return give(r.Stat.Mode.IsDir(), r.Content)
}

// absolute keeps the end that says "what is in the directory".
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	return archive.PreserveTrailingDotOrSeparator(abs, path), err
}

// destination tells what is at a place that is copied to. One that is not there may
// be made.
func (c copier) destination(ctx context.Context, p place) (archive.CopyInfo, error) {
	info := archive.CopyInfo{Path: p.path}
	st, err := c.stat(ctx, p)
	if err == nil && fs.FileMode(st.Mode)&fs.ModeSymlink != 0 {
		p = behind(p, st.LinkTarget)
		info.Path = p.path
		st, err = c.stat(ctx, p)
	}
	if err != nil {
		return info, nil //nolint:nilerr // what is wrong with it the writing tells
	}
	mode := fs.FileMode(st.Mode)
	if !mode.IsDir() && !mode.IsRegular() {
		return info, fmt.Errorf("destination %q must be a directory or a regular file", p)
	}
	info.Exists, info.IsDir = true, mode.IsDir()
	return info, nil
}

// write unpacks a tar into a directory of a volume or container.
func (c copier) write(ctx context.Context, p place, dir string, tar io.Reader) error {
	if p.kind == inVolume {
		return c.hf.WriteVolumeFiles(ctx, p.name, dir, tar)
	}
	_, err := c.cli.Client().CopyToContainer(ctx, p.name, mobyclient.CopyToContainerOptions{DestinationPath: dir, Content: tar})
	return err
}

func copyFiles(ctx context.Context, c copier, from, to place) error {
	if from.kind == inVolume && to.kind == inVolume && from.name == to.name {
		// What is read would hold what is written, without an end.
		return errors.New("both are in one volume: use cp in a container that has it")
	}
	if to.kind == onHost {
		abs, err := absolute(to.path)
		if err != nil {
			return err
		}
		if err := command.ValidateOutputPath(abs); err != nil {
			return err
		}
		return c.read(ctx, from, func(info archive.CopyInfo, tar io.Reader) error { return archive.CopyTo(tar, info, abs) })
	}
	if to.kind == inStream {
		if c.cli.Out().IsTerminal() {
			return errors.New("refusing to write a tar to a terminal: redirect STDOUT")
		}
		return c.read(ctx, from, func(_ archive.CopyInfo, tar io.Reader) error {
			_, err := io.Copy(c.cli.Out(), tar)
			return err
		})
	}
	dst, err := c.destination(ctx, to)
	if err != nil {
		return err
	}
	return c.read(ctx, from, func(info archive.CopyInfo, tar io.Reader) error {
		if from.kind == inStream {
			if !dst.IsDir {
				return fmt.Errorf("destination %q must be a directory", to)
			}
			return c.write(ctx, to, dst.Path, tar)
		}
		dir, prepared, err := archive.PrepareArchiveCopy(tar, info, dst)
		if err != nil {
			return err
		}
		defer prepared.Close()
		return c.write(ctx, to, dir, prepared)
	})
}
