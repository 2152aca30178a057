package container

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestChooseDevices(t *testing.T) {
	gpu := [][]string{{"gpu"}}
	nvidia := []string{"nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=10", "nvidia.com/gpu=2", "nvidia.com/gpu=GPU-x", "nvidia.com/gpu=all", "other.com/gpu=0"}
	amd := []string{"amd.com/gpu=0", "amd.com/gpu=1"}
	for _, tc := range []struct {
		name  string
		r     []container.DeviceRequest
		have  []string
		want  string
		fails string
	}{
		{"nothing", nil, nvidia, "", ""},
		{"by name", []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"v.com/c=a", "v.com/c=b"}}}, nil, "v.com/c=a v.com/c=b", ""},
		{"no full name", []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"gpu0"}}}, nil, "", `invalid CDI device name "gpu0"`},
		{"name and count", []container.DeviceRequest{{Driver: "cdi", Count: 1}}, nil, "", "takes names of devices"},
		{"all", []container.DeviceRequest{{Count: -1, Capabilities: gpu}}, nvidia, "nvidia.com/gpu=all", ""},
		{"all, where no device is all", []container.DeviceRequest{{Count: -1, Capabilities: gpu}}, amd, "amd.com/gpu=0 amd.com/gpu=1", ""},
		{"some, by number", []container.DeviceRequest{{Count: 4, Capabilities: gpu}}, nvidia, "nvidia.com/gpu=0 nvidia.com/gpu=1 nvidia.com/gpu=2 nvidia.com/gpu=10", ""},
		{"too many", []container.DeviceRequest{{Count: 5, Capabilities: gpu}}, nvidia, "", "device request for 5 devices: there are 4"},
		{"named", []container.DeviceRequest{{DeviceIDs: []string{"GPU-x"}, Capabilities: gpu}}, nvidia, "nvidia.com/gpu=GPU-x", ""},
		{"driver", []container.DeviceRequest{{Driver: "amd", Count: -1, Capabilities: gpu}}, append(amd, nvidia...), "amd.com/gpu=0 amd.com/gpu=1", ""},
		{"driver without devices", []container.DeviceRequest{{Driver: "amd", Count: -1, Capabilities: gpu}}, nvidia, "", `could not select device driver "amd" with capabilities: [[gpu]]`},
		{"no devices", []container.DeviceRequest{{Count: -1, Capabilities: gpu}}, nil, "", `could not select device driver "" with capabilities: [[gpu]]`},
		{"something else", []container.DeviceRequest{{Count: -1, Capabilities: [][]string{{"tpu"}}}}, nvidia, "", `with capabilities: [[tpu]]`},
		{"twice the same", []container.DeviceRequest{{Count: 1, Capabilities: gpu}, {Driver: "cdi", DeviceIDs: []string{"nvidia.com/gpu=0"}}}, nvidia, "nvidia.com/gpu=0", ""},
	} {
		got, err := chooseDevices(tc.r, tc.have)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: got %q, %v, want %q", tc.name, got, err, tc.fails)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%s: got %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
}
