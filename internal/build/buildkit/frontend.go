package buildkit

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/logkey"
	domain "holdfast.dev/holdfast/internal/build"
)

// builtinSyntax is the repository of the frontend that is built in.
const builtinSyntax = "docker.io/docker/dockerfile"

// dockerfile is the Dockerfile frontend. A Dockerfile may ask for a frontend's
// image by a "# syntax=" line; where that is the one that is built in and no
// registry can be reached, the built-in one does the work, and says so.
type dockerfile struct {
	log interface {
		Warn(msg string, args ...any)
	}
}

func (d dockerfile) build(ctx context.Context, c client.Client) (*client.Result, error) {
	c = sbomClient{c}
	s := &syntaxClient{Client: c}
	res, err := builder.Build(ctx, s)
	if err == nil || !s.wanted() || ctx.Err() != nil {
		return res, pointed(err)
	}
	text := fmt.Sprintf("the Dockerfile frontend %s is not to be had (%s); the built-in one is used", s.source, firstLine(s.err))
	d.log.Warn("built-in Dockerfile frontend used", logkey.Name, s.source, logkey.Err, s.err)
	if werr := c.Warn(ctx, digest.FromString(text), text, client.WarnOpts{Level: 1}); werr != nil {
		return nil, werr
	}
	res, err = builder.Build(ctx, &builtinClient{c})
	return res, pointed(err)
}

// pointed adds to an error the line of the Dockerfile that it is about, with a
// caret under the word. Which lines they are stays in the error, for clients that
// show more of them.
func pointed(err error) error {
	for _, s := range bkerrdefs.Sources(err) {
		if s.GetInfo() == nil || len(s.GetRanges()) == 0 {
			continue
		}
		r := s.GetRanges()[0]
		all := strings.Split(string(s.GetInfo().GetData()), "\n")
		first, last := int(r.GetStart().GetLine()), int(max(r.GetStart().GetLine(), r.GetEnd().GetLine()))
		if first < 1 || first > len(all) {
			continue
		}
		if c := domain.Caret(all[first-1:min(last, len(all))], err.Error()); c != "" {
			return fmt.Errorf("%w\n%s", err, c)
		}
	}
	return err
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// syntaxClient notes when an image of the built-in frontend could not be run.
type syntaxClient struct {
	client.Client
	source string
	err    error
}

// Solve implements client.Client.
func (s *syntaxClient) Solve(ctx context.Context, r client.SolveRequest) (*client.Result, error) {
	if r.Frontend != "gateway.v0" {
		return s.Client.Solve(ctx, r)
	}
	source := r.FrontendOpt["source"]
	// Look for the image first: a failure of the Dockerfile itself under the
	// frontend's image must not be taken for a missing image.
	if _, _, _, err := s.ResolveImageConfig(ctx, source, resolveOpt()); err != nil {
		s.source, s.err = source, err
		return nil, err
	}
	return s.Client.Solve(ctx, r)
}

// wanted says whether what failed is the look-up of the built-in frontend's image.
func (s *syntaxClient) wanted() bool {
	if s.err == nil {
		return false
	}
	ref, err := reference.ParseNormalizedNamed(s.source)
	return err == nil && ref.Name() == builtinSyntax
}

// builtinClient makes the frontend believe that it runs by its image already.
type builtinClient struct{ client.Client }

// BuildOpts implements client.Client.
func (b *builtinClient) BuildOpts() client.BuildOpts {
	o := b.Client.BuildOpts()
	opts := map[string]string{"cmdline": builtinSyntax}
	for k, v := range o.Opts {
		opts[k] = v
	}
	o.Opts = opts
	return o
}

func resolveOpt() sourceresolver.Opt {
	p := platforms.DefaultSpec()
	return sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p}}
}

// sbomClient says what is missing where a list of software is asked for: what
// makes one is an image.
type sbomClient struct{ client.Client }

// ResolveSourceMetadata implements client.Client.
func (s sbomClient) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	resp, err := s.Client.ResolveSourceMetadata(ctx, op, opt)
	if err == nil {
		return resp, nil
	}
	wanted, perr := reference.ParseNormalizedNamed(generator(s.BuildOpts().Opts))
	if perr == nil && op.GetIdentifier() == "docker-image://"+reference.TagNameOnly(wanted).String() {
		err = fmt.Errorf("the SBOM generator %s is not to be had: load or build that image, name another (--attest type=sbom,generator=IMAGE), or build without --sbom: %w",
			reference.FamiliarString(wanted), err)
	}
	return resp, err
}

// generator is the image that makes an SBOM, "" where none is wanted.
func generator(opts map[string]string) string {
	v, ok := opts["attest:sbom"]
	if !ok {
		return ""
	}
	for f := range strings.SplitSeq(v, ",") {
		if name, ok := strings.CutPrefix(f, "generator="); ok && name != "" {
			return name
		}
	}
	return "docker/buildkit-syft-scanner:stable-1" // BuildKit's choice
}
