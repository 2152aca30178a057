package system

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// usageByKind is the version whose reply has a part per kind of object; before
// it there were flat lists, which it still gets unless it asks for verbose.
const usageByKind = "1.52"

// flatUsage is the reply of older versions. A nil list is left out, an empty
// one is not.
type flatUsage struct {
	LayersSize int64               `json:"LayersSize,omitempty"`
	Images     []any               `json:"Images,omitzero"`
	Containers []container.Summary `json:"Containers,omitzero"`
	Volumes    []volume.Volume     `json:"Volumes,omitzero"`
	BuildCache []build.CacheRecord `json:"BuildCache,omitzero"`
}

type bothUsages struct {
	flatUsage
	system.DiskUsage
}

func (rt *Router) diskUsage(w http.ResponseWriter, r *http.Request) error {
	o, err := usageOptions(r)
	if err != nil {
		return err
	}
	du, err := rt.b.DiskUsage(r.Context(), o)
	if err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), usageByKind) {
		flat, err := flatten(du, !route.AtLeast(r.Context(), "1.44"))
		if err != nil {
			return err
		}
		return route.JSON(w, http.StatusOK, flat)
	}
	if route.Bool(r, "verbose") {
		return route.JSON(w, http.StatusOK, du)
	}
	flat, err := flatten(du, false)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, bothUsages{flat, du})
}

func usageOptions(r *http.Request) (DiskUsageOptions, error) {
	types, given := r.Form["type"]
	if !given || !route.AtLeast(r.Context(), "1.42") {
		return DiskUsageOptions{Containers: true, Images: true, Volumes: true, BuildCache: true}, nil
	}
	var o DiskUsageOptions
	for _, t := range types {
		switch system.DiskUsageObject(t) {
		case system.ContainerObject:
			o.Containers = true
		case system.ImageObject:
			o.Images = true
		case system.VolumeObject:
			o.Volumes = true
		case system.BuildCacheObject:
			o.BuildCache = true
		default:
			return o, fault.New(errdefs.ErrInvalidArgument, "unknown object type: %s", t)
		}
	}
	return o, nil
}

func flatten(du system.DiskUsage, virtualSize bool) (flatUsage, error) {
	var out flatUsage
	if u := du.ImageUsage; u != nil {
		out.LayersSize = u.TotalSize
		out.Images = []any{}
		for _, i := range u.Items {
			shown, err := flatImage(i, virtualSize)
			if err != nil {
				return out, err
			}
			out.Images = append(out.Images, shown)
		}
	}
	if u := du.ContainerUsage; u != nil {
		out.Containers = append([]container.Summary{}, u.Items...)
	}
	if u := du.VolumeUsage; u != nil {
		out.Volumes = append([]volume.Volume{}, u.Items...)
	}
	if u := du.BuildCacheUsage; u != nil {
		out.BuildCache = append([]build.CacheRecord{}, u.Items...)
	}
	return out, nil
}

// flatImage adds the VirtualSize that versions before 1.44 expect.
func flatImage(i image.Summary, virtualSize bool) (any, error) {
	if !virtualSize {
		return i, nil
	}
	m, err := asMap(i)
	if err != nil {
		return nil, err
	}
	m["VirtualSize"] = i.Size
	return m, nil
}
