package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

func TestBlkioIsCheckedAndDroppedWhereTheKernelHasNone(t *testing.T) {
	all := BlockIO{Weight: true, ThrottleBps: true, ThrottleIOps: true}
	throttle := []*blkiodev.ThrottleDevice{{Path: "/dev/x", Rate: 1}}
	for _, tc := range []struct {
		name  string
		in    container.Resources
		have  BlockIO
		warns []string
		fails string
	}{
		{"nothing asked", container.Resources{}, BlockIO{}, nil, ""},
		{"all there", container.Resources{BlkioWeight: 500, BlkioDeviceReadBps: throttle, BlkioDeviceWriteIOps: throttle}, all, nil, ""},
		{"no weight", container.Resources{BlkioWeight: 500}, BlockIO{}, []string{"Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."}, ""},
		{"no bps", container.Resources{BlkioDeviceReadBps: throttle, BlkioDeviceReadIOps: throttle}, BlockIO{ThrottleIOps: true}, []string{"Your kernel does not support Block I/O BPS read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."}, ""},
		{"too small", container.Resources{BlkioWeight: 9}, all, nil, "Range of blkio weight is from 10 to 1000"},
		{"too big for one", container.Resources{BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: "/dev/x", Weight: 1001}}}, all, nil, "Range of blkio weight is from 10 to 1000"},
		{"no path", container.Resources{BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{{Rate: 1}}}, all, nil, "a path is needed"},
		{"null", container.Resources{BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{nil}}, all, nil, "a path is needed"},
	} {
		r := tc.in
		warns, err := validateBlkio(&r, tc.have)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: got %v, want %q", tc.name, err, tc.fails)
			}
			continue
		}
		if err != nil || !slices.Equal(warns, tc.warns) {
			t.Errorf("%s: got %q, %v", tc.name, warns, err)
		}
		if len(tc.warns) > 0 && (r.BlkioWeight != 0 || len(r.BlkioDeviceReadBps) != 0) {
			t.Errorf("%s: not dropped: %+v", tc.name, r)
		}
	}
}

func TestBlockIORefusesWhatIsNoBlockDevice(t *testing.T) {
	for _, p := range []string{"/dev/null", filepath.Join(t.TempDir(), "absent")} {
		_, err := blockIO(&container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: p, Rate: 1}}})
		if err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: got %v", p, err)
		}
	}
	if io, err := blockIO(&container.Resources{}); io != nil || err != nil {
		t.Errorf("nothing asked: %v, %v", io, err)
	}
}

func TestReadBlockIO(t *testing.T) {
	tree := func(files ...string) string {
		dir := t.TempDir()
		for _, f := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for name, tc := range map[string]struct {
		dir  string
		want BlockIO
	}{
		"v1, throttle alone": {tree("blkio/blkio.throttle.read_bps_device", "blkio/blkio.throttle.read_iops_device"), BlockIO{ThrottleBps: true, ThrottleIOps: true}},
		"v1 with bfq":        {tree("blkio/blkio.bfq.weight"), BlockIO{Weight: true}},
		"v2":                 {tree("cgroup.controllers", "system.slice/io.max", "system.slice/io.weight"), BlockIO{Weight: true, ThrottleBps: true, ThrottleIOps: true}},
		"v2 without io":      {tree("cgroup.controllers", "system.slice/memory.max"), BlockIO{}},
	} {
		if got := readBlockIO(tc.dir); got != tc.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
