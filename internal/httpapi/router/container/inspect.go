package container

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	// What are filters now were parameters of their own once.
	for _, key := range []string{"since", "before"} {
		if v := r.Form.Get(key); v != "" {
			filters[key] = append(filters[key], v)
		}
	}
	o := domain.ListOptions{All: route.Bool(r, "all"), Size: route.Bool(r, "size"), Filters: filters}
	if v := r.Form.Get("limit"); v != "" {
		if o.Limit, err = strconv.Atoi(v); err != nil {
			return invalid("%v", err)
		}
	}
	all, err := rt.containers.List(r.Context(), o)
	if err != nil {
		return err
	}
	annotated, described, healthy := route.AtLeast(r.Context(), "1.46"), route.AtLeast(r.Context(), "1.48"), route.AtLeast(r.Context(), "1.52")
	for i := range all {
		if !annotated {
			all[i].HostConfig.Annotations = nil
		}
		if !described {
			all[i].ImageManifestDescriptor = nil
		}
		if !healthy {
			all[i].Health = nil
		}
	}
	return route.List(w, http.StatusOK, all)
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	c, err := rt.containers.Inspect(r.Context(), name(r), route.Bool(r, "size"))
	if err != nil {
		return err
	}
	if c.Config == nil {
		c.Config = &container.Config{}
	}
	if !route.AtLeast(r.Context(), "1.45") && c.NetworkSettings != nil {
		shortID := c.ID[:min(12, len(c.ID))]
		for network, ep := range c.NetworkSettings.Networks {
			if !container.NetworkMode(network).IsUserDefined() {
				continue
			}
			for _, alias := range []string{shortID, c.Config.Hostname} {
				if !slices.Contains(ep.Aliases, alias) {
					ep.Aliases = append(slices.Clip(ep.Aliases), alias)
				}
			}
		}
	}
	if !route.AtLeast(r.Context(), "1.48") {
		c.ImageManifestDescriptor = nil
	}
	if route.AtLeast(r.Context(), "1.52") {
		return route.JSON(w, http.StatusOK, c)
	}
	old, err := withBridge(c)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, old)
}

// withBridge adds the fields of the default network where versions before 1.52
// showed them.
func withBridge(c container.InspectResponse) (any, error) {
	if c.NetworkSettings == nil || c.NetworkSettings.Networks["bridge"] == nil {
		return c, nil
	}
	b, err := route.Marshal(c)
	if err != nil {
		return nil, err
	}
	var whole, settings map[string]json.RawMessage
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(whole["NetworkSettings"], &settings); err != nil {
		return nil, err
	}
	ep := c.NetworkSettings.Networks["bridge"]
	for key, v := range map[string]any{
		"EndpointID":          ep.EndpointID,
		"Gateway":             ep.Gateway,
		"GlobalIPv6Address":   ep.GlobalIPv6Address,
		"GlobalIPv6PrefixLen": ep.GlobalIPv6PrefixLen,
		"IPAddress":           ep.IPAddress,
		"IPPrefixLen":         ep.IPPrefixLen,
		"IPv6Gateway":         ep.IPv6Gateway,
		"MacAddress":          ep.MacAddress,
	} {
		if settings[key], err = route.Marshal(v); err != nil {
			return nil, err
		}
	}
	if whole["NetworkSettings"], err = route.Marshal(settings); err != nil {
		return nil, err
	}
	return whole, nil
}

func (rt *Router) changes(w http.ResponseWriter, r *http.Request) error {
	changes, err := rt.containers.Changes(r.Context(), name(r))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, changes)
}

func (rt *Router) top(w http.ResponseWriter, r *http.Request) error {
	top, err := rt.containers.Top(r.Context(), name(r), r.Form.Get("ps_args"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, top)
}

// stats sends a sample, or one a second as lines of JSON.
func (rt *Router) stats(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	stream := route.BoolOr(r, "stream", true)
	oneShot := route.AtLeast(ctx, "1.41") && route.BoolOr(r, "one-shot", false)
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(route.FlushWriter{W: w})
	enc.SetEscapeHTML(false)
	err := rt.containers.Stats(ctx, name(r), stream, oneShot, func(s container.StatsResponse) error {
		return enc.Encode(s)
	})
	if ctx.Err() != nil {
		return nil // the client has seen enough
	}
	return err
}
