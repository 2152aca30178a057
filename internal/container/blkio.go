package container

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const minBlkioWeight, maxBlkioWeight = 10, 1000

// BlockIO tells which limits of block devices the machine's cgroups have.
type BlockIO struct {
	Weight       bool // shares, for all devices and for one
	ThrottleBps  bool
	ThrottleIOps bool
}

// readBlockIO looks at the cgroup file systems. On v2 the root has no limits of
// its own: a child of it that has the controller tells.
func readBlockIO(root string) BlockIO {
	anyOf := func(patterns ...string) bool {
		for _, p := range patterns {
			if found, err := filepath.Glob(filepath.Join(root, p)); err == nil && len(found) > 0 {
				return true
			}
		}
		return false
	}
	if pathExists(filepath.Join(root, "cgroup.controllers")) {
		throttle := anyOf("*/io.max")
		return BlockIO{Weight: anyOf("*/io.weight", "*/io.bfq.weight"), ThrottleBps: throttle, ThrottleIOps: throttle}
	}
	return BlockIO{
		Weight:       anyOf("blkio/blkio.weight", "blkio/blkio.bfq.weight"),
		ThrottleBps:  anyOf("blkio/blkio.throttle.read_bps_device"),
		ThrottleIOps: anyOf("blkio/blkio.throttle.read_iops_device"),
	}
}

// validateBlkio checks limits of block devices and drops, with Docker's warning,
// what the machine cannot hold.
func validateBlkio(r *container.Resources, have BlockIO) (warnings []string, err error) {
	if r.BlkioWeight > 0 && (r.BlkioWeight < minBlkioWeight || r.BlkioWeight > maxBlkioWeight) {
		return nil, invalid("Range of blkio weight is from %d to %d", minBlkioWeight, maxBlkioWeight)
	}
	for _, d := range r.BlkioWeightDevice {
		if d == nil || d.Path == "" {
			return nil, invalid("invalid BlkioWeightDevice: a path is needed")
		}
		if d.Weight != 0 && (d.Weight < minBlkioWeight || d.Weight > maxBlkioWeight) {
			return nil, invalid("Range of blkio weight is from %d to %d", minBlkioWeight, maxBlkioWeight)
		}
	}
	const absent = "Your kernel does not support %s or the cgroup is not mounted. %s discarded."
	if !have.Weight && r.BlkioWeight > 0 {
		warnings = append(warnings, fmt.Sprintf(absent, "Block I/O weight", "Weight"))
		r.BlkioWeight = 0
	}
	if !have.Weight && len(r.BlkioWeightDevice) > 0 {
		warnings = append(warnings, fmt.Sprintf(absent, "Block I/O weight_device", "Weight-device"))
		r.BlkioWeightDevice = nil
	}
	for _, l := range []struct {
		list *[]*blkiodev.ThrottleDevice
		have bool
		what string
	}{
		{&r.BlkioDeviceReadBps, have.ThrottleBps, "BPS read"},
		{&r.BlkioDeviceWriteBps, have.ThrottleBps, "BPS write"},
		{&r.BlkioDeviceReadIOps, have.ThrottleIOps, "IOPS read"},
		{&r.BlkioDeviceWriteIOps, have.ThrottleIOps, "IOPS write"},
	} {
		for _, d := range *l.list {
			if d == nil || d.Path == "" {
				return nil, invalid("invalid limit of a block device: a path is needed")
			}
		}
		if len(*l.list) > 0 && !l.have {
			warnings = append(warnings, fmt.Sprintf(absent, "Block I/O "+l.what+" limit", "Block I/O "+l.what+" limit"))
			*l.list = nil
		}
	}
	return warnings, nil
}

// blockIO turns the limits into the runtime's, which knows devices by number;
// nil where there are none.
func blockIO(r *container.Resources) (*specs.LinuxBlockIO, error) {
	var out specs.LinuxBlockIO
	any := false
	if r.BlkioWeight > 0 {
		out.Weight, any = &r.BlkioWeight, true
	}
	for _, d := range r.BlkioWeightDevice {
		major, minor, err := blockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		out.WeightDevice, any = append(out.WeightDevice, w), true
	}
	for _, l := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &out.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &out.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &out.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, d := range l.from {
			major, minor, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = major, minor
			*l.to, any = append(*l.to, t), true
		}
	}
	if !any {
		return nil, nil
	}
	return &out, nil
}

// blockDevice is the number of the device at path.
func blockDevice(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, invalid("block device %s: %s", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, invalid("block device %s: %s", path, os.ErrInvalid)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}
