package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/preflight"
)

// checker tries volumes and directories for databases.
type checker struct{ volumes *volume.Service }

// Check implements the extension router's Checker.
func (c checker) Check(ctx context.Context, r api.CheckRequest) (_ api.CheckReport, err error) {
	known := preflight.Databases()
	for _, name := range r.For {
		if !slices.Contains(known, name) {
			return api.CheckReport{}, fault.New(errdefs.ErrInvalidArgument, "unknown database %q: want one of %s", name, strings.Join(known, ", "))
		}
	}
	dir := r.Path
	if r.Volume != "" {
		user := "check-" + rand.Text() // as a container would, for as long as it takes
		if dir, err = c.volumes.Mount(ctx, r.Volume, user); err != nil {
			return api.CheckReport{}, err
		}
		defer func() {
			err = errors.Join(err, c.volumes.Unmount(context.WithoutCancel(ctx), r.Volume, user))
		}()
	}
	st, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return api.CheckReport{}, fault.New(errdefs.ErrNotFound, "no such directory: %s", dir)
	}
	if err != nil {
		return api.CheckReport{}, err
	}
	if !st.IsDir() {
		return api.CheckReport{}, fault.New(errdefs.ErrInvalidArgument, "not a directory: %s", dir)
	}
	found, err := preflight.Run(ctx, dir, r.For...)
	if err != nil {
		return api.CheckReport{}, err
	}
	return checkReport(found), nil
}

func checkReport(r preflight.Report) api.CheckReport {
	out := api.CheckReport{
		Path: r.Path, FSType: r.FSType, InMemory: r.InMemory, FreeBytes: r.FreeBytes, FreeInodes: r.FreeInodes,
		FsyncNanos: r.FsyncTime.Nanoseconds(), TookNanos: r.Took.Nanoseconds(),
	}
	for _, p := range r.Probes {
		out.Probes = append(out.Probes, api.CheckProbe{Name: p.Name, Result: string(p.Result), Detail: p.Detail})
	}
	for _, v := range r.Verdicts {
		out.Verdicts = append(out.Verdicts, api.CheckVerdict{For: v.For, Level: string(v.Level), Text: v.Text})
	}
	return out
}
