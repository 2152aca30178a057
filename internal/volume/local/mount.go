package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
)

// CheckOptions implements volume.Driver, in Docker's words.
func (d *Driver) CheckOptions(options map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		switch k {
		case "type", "device", "o":
		case "size":
			if n, err := units.RAMInBytes(options[k]); err != nil {
				return fault.New(errdefs.ErrInvalidArgument, "%s", err)
			} else if n > 0 {
				return fault.New(errdefs.ErrInvalidArgument, "quota size requested but no quota support")
			}
		default:
			return fault.New(errdefs.ErrInvalidArgument, "invalid option: %q", k)
		}
	}
	for _, need := range []struct{ have, want string }{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, have := options[need.have]
		if _, want := options[need.want]; have && !want {
			return fault.New(errdefs.ErrInvalidArgument, "missing required option: %q", need.want)
		}
	}
	if options["type"] == "cifs" && options["device"] != "" {
		u, err := url.Parse(options["device"])
		if err != nil {
			return fault.New(errdefs.ErrInvalidArgument, "error parsing mount device url: %s", err)
		}
		if u.Port() != "" {
			return fault.New(errdefs.ErrInvalidArgument, "port not allowed in CIFS device URL, include 'port' in 'o='")
		}
	}
	return nil
}

// Mount implements volume.Driver.
func (d *Driver) Mount(ctx context.Context, v volume.Spec) error {
	path := d.Path(v)
	_, err := os.Stat(path)
	if !hasMount(v) {
		if errors.Is(err, os.ErrNotExist) {
			return fault.New(errdefs.ErrDataLoss, "the data of volume %s is missing: put the directory %s back, or remove the volume", v.Name, path)
		}
		return err
	}
	if errors.Is(err, os.ErrNotExist) { // a mount point holds nothing that could be lost
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return err
	}
	mounted, err := mountinfo.Mounted(path)
	if err != nil {
		return fmt.Errorf("find out whether volume is mounted: %w", err)
	}
	if mounted {
		return nil
	}
	device, options, err := d.source(ctx, v.Options)
	if err != nil {
		return err
	}
	if err := mount.Mount(device, path, v.Options["type"], options); err != nil {
		return fmt.Errorf("failed to mount local volume: %w", hidden{maskPassword(err.Error(), options), err})
	}
	return nil
}

// Unmount implements volume.Driver.
func (d *Driver) Unmount(_ context.Context, v volume.Spec) error {
	if !hasMount(v) {
		return nil
	}
	path := d.Path(v)
	for {
		mounted, err := mountinfo.Mounted(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find out whether volume is mounted: %w", err)
		}
		if !mounted {
			return nil
		}
		if err := mount.Unmount(path); err != nil {
			return err
		}
	}
}

// source resolves the server of a share: the kernel's NFS and CIFS want an address.
func (d *Driver) source(ctx context.Context, options map[string]string) (device, o string, err error) {
	device, o = options["device"], options["o"]
	typ := options["type"]
	if typ != "nfs" && typ != "nfs4" && typ != "cifs" {
		return device, o, nil
	}
	list := strings.Split(o, ",")
	for i, opt := range list {
		host, ok := strings.CutPrefix(opt, "addr=")
		if !ok || host == "" {
			continue
		}
		addr, err := d.address(ctx, host)
		if err != nil {
			return "", "", err
		}
		list[i] = "addr=" + addr
		return device, strings.Join(list, ","), nil
	}
	if typ != "cifs" {
		return device, o, nil
	}
	u, err := url.Parse(device)
	if err != nil {
		return "", "", fmt.Errorf("error parsing mount device url: %w", err)
	}
	if u.Hostname() == "" {
		return device, o, nil
	}
	addr, err := d.address(ctx, u.Hostname())
	if err != nil {
		return "", "", err
	}
	// By text: the share's name may hold what a URL would escape.
	return strings.Replace(device, u.Host, addr, 1), o, nil
}

func (d *Driver) address(ctx context.Context, host string) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	addr, err := d.resolve(ctx, host)
	if err != nil {
		return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	return addr, nil
}

// hidden is an error whose text is safe to show.
type hidden struct {
	text string
	err  error
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.err }
