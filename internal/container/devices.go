package container

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// cdiDriver is how a request asks for devices by their full names.
const cdiDriver = "cdi"

// gpuVendors are whose devices --gpus means, in order. A driver's name in the
// request means one of them alone.
var gpuVendors = []struct{ driver, kind string }{
	{"nvidia", "nvidia.com/gpu="}, {"amd", "amd.com/gpu="}, {"intel", "gpu.intel.com/gpu="},
}

// chooseDevices turns device requests into full names of devices, of those there
// are. Names that the user gave are taken as they are: the device may come later.
func chooseDevices(requests []container.DeviceRequest, have []string) ([]string, error) {
	var out []string
	for _, r := range requests {
		var names []string
		var err error
		if r.Driver == cdiDriver {
			names, err = namedDevices(r)
		} else {
			names, err = gpus(r, have)
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

func namedDevices(r container.DeviceRequest) ([]string, error) {
	if r.Count != 0 || len(r.Options) > 0 {
		return nil, invalid("invalid device request: driver cdi takes names of devices, no count and no options")
	}
	for _, n := range r.DeviceIDs {
		vendor, name, ok := strings.Cut(n, "=")
		if !ok || name == "" || !strings.Contains(vendor, "/") {
			return nil, invalid("invalid CDI device name %q: want vendor/class=name", n)
		}
	}
	return r.DeviceIDs, nil
}

// gpus chooses among the devices of the vendors that the request can mean.
func gpus(r container.DeviceRequest, have []string) ([]string, error) {
	none := invalid("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
	if !slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") }) {
		return nil, none
	}
	for _, v := range gpuVendors {
		if r.Driver != "" && r.Driver != v.driver {
			continue
		}
		var ids []string
		for _, name := range have {
			if id, ok := strings.CutPrefix(name, v.kind); ok {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			continue
		}
		chosen, err := countDevices(r, ids)
		for i := range chosen {
			chosen[i] = v.kind + chosen[i]
		}
		return chosen, err
	}
	return nil, none
}

const allDevices = "all"

// countDevices picks as many as were asked for, or those that were named.
func countDevices(r container.DeviceRequest, ids []string) ([]string, error) {
	if len(r.DeviceIDs) > 0 {
		if r.Count > 0 {
			return nil, invalid("cannot set both Count and DeviceIDs on device request")
		}
		return slices.Clone(r.DeviceIDs), nil
	}
	if r.Count < 0 && slices.Contains(ids, allDevices) {
		return []string{allDevices}, nil
	}
	// The same device is often there by number and by a name: numbers count.
	var numbered []string
	for _, id := range ids {
		if _, err := strconv.Atoi(id); err == nil {
			numbered = append(numbered, id)
		}
	}
	if len(numbered) == 0 {
		numbered = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == allDevices })
	}
	slices.SortFunc(numbered, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	switch {
	case r.Count < 0:
		return numbered, nil
	case r.Count > len(numbered):
		return nil, invalid("device request for %d devices: there are %d", r.Count, len(numbered))
	}
	return numbered[:r.Count], nil
}

func (s *Service) deviceNames() []string {
	if s.d.Devices == nil {
		return nil
	}
	return s.d.Devices.Names()
}

// injectDevices gives a container that starts the devices it asks for.
func (s *Service) injectDevices(spec *specs.Spec, h *container.HostConfig) error {
	if len(h.DeviceRequests) == 0 {
		return nil
	}
	names, err := chooseDevices(h.DeviceRequests, s.deviceNames())
	if err != nil || len(names) == 0 {
		return err
	}
	if s.d.Devices == nil {
		return fmt.Errorf("CDI device injection failed: there are no CDI devices")
	}
	if err := s.d.Devices.Inject(spec, names); err != nil {
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	return nil
}
