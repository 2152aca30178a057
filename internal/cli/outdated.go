package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

type outdatedOptions struct {
	quiet   bool
	noTrunc bool
	format  string
}

func newOutdated(dockerCli command.Cli) *cobra.Command {
	var o outdatedOptions
	cmd := &cobra.Command{
		Use:   "outdated [OPTIONS]",
		Short: "List images that stand on an old base image",
		Long: `List images that were built on an image whose name has since gone to a newer
one, and the containers made of them. Build them again to get on the new base;
then "image prune" can take the old one away.`,
		Args:              dockercli.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runOutdated(cmd.Context(), dockerCli, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only show names of images, or IDs of those without")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate IDs")
	flags.StringVar(&o.format, "format", "table", `Format output using a Go template, "table TEMPLATE", or "json"`)
	return cmd
}

func runOutdated(ctx context.Context, dockerCli command.Cli, o outdatedOptions) error {
	hf := client.New(dockerCli.Client().Dialer())
	defer hf.Close()
	list, err := hf.OutdatedImages(ctx)
	if err != nil {
		return err
	}
	format := formatter.Format(o.format)
	switch {
	case o.quiet:
		format = "{{.Image}}"
	case format == formatter.TableFormatKey:
		format = "table {{.Image}}\t{{.ID}}\t{{.Created}}\t{{.Base}}\t{{.BaseID}}\t{{.CurrentID}}\t{{.Containers}}"
	}
	fctx := formatter.Context{Output: dockerCli.Out(), Format: format, Trunc: !o.noTrunc}
	header := outdatedRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Image": "IMAGE", "ID": "IMAGE ID", "Created": "CREATED", "Base": "BASE", "BaseID": "STANDS ON", "CurrentID": "NOW", "Containers": "CONTAINERS",
	}}}
	return fctx.Write(&header, func(show func(formatter.SubContext) error) error {
		for _, i := range list {
			if err := show(&outdatedRow{image: i, trunc: !o.noTrunc, now: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
}

// outdatedRow is one image for a template.
type outdatedRow struct {
	formatter.HeaderContext
	image api.OutdatedImage
	trunc bool
	now   time.Time
}

// MarshalJSON is for the format "json".
func (r *outdatedRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *outdatedRow) id(id string) string {
	if r.trunc {
		return formatter.TruncateID(id)
	}
	return id
}

// Image is its first name, or its ID.
func (r *outdatedRow) Image() string {
	if len(r.image.Names) == 0 {
		return r.ID()
	}
	return strings.Join(r.image.Names, ", ")
}

// ID is the image's.
func (r *outdatedRow) ID() string { return r.id(r.image.ID) }

// Created is how long ago.
func (r *outdatedRow) Created() string {
	return units.HumanDuration(r.now.Sub(r.image.Created)) + " ago"
}

// Base is the name that it was built on.
func (r *outdatedRow) Base() string { return r.image.Base }

// BaseID is what that name meant.
func (r *outdatedRow) BaseID() string { return r.id(r.image.BaseID) }

// CurrentID is what it means now.
func (r *outdatedRow) CurrentID() string { return r.id(r.image.CurrentID) }

// Containers is how many are made of it.
func (r *outdatedRow) Containers() string { return strconv.Itoa(len(r.image.Containers)) }
