package container

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/fault"
	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

func name(r *http.Request) string { return route.Var(r, "name") }

func noContent(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) start(w http.ResponseWriter, r *http.Request) error {
	// A length of -1 is a chunked body; "{}" and "null" are bodies of old clients.
	if r.ContentLength > 7 || r.ContentLength == -1 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if r.Form.Get("checkpoint") != "" {
		return invalid("checkpoint is not supported")
	}
	return noContent(w, rt.containers.Start(r.Context(), name(r)))
}

// stopArgs reads what stop and restart have in common.
func stopArgs(r *http.Request) (signal string, timeout *int, err error) {
	if route.AtLeast(r.Context(), "1.42") {
		signal = r.Form.Get("signal")
	}
	if t := r.Form.Get("t"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil {
			return "", nil, invalid("%v", err)
		}
		timeout = &n
	}
	return signal, timeout, nil
}

func (rt *Router) stop(w http.ResponseWriter, r *http.Request) error {
	signal, timeout, err := stopArgs(r)
	if err != nil {
		return err
	}
	return noContent(w, rt.containers.Stop(r.Context(), name(r), signal, timeout))
}

func (rt *Router) restart(w http.ResponseWriter, r *http.Request) error {
	signal, timeout, err := stopArgs(r)
	if err != nil {
		return err
	}
	return noContent(w, rt.containers.Restart(r.Context(), name(r), signal, timeout))
}

func (rt *Router) kill(w http.ResponseWriter, r *http.Request) error {
	if err := rt.containers.Kill(r.Context(), name(r), r.Form.Get("signal")); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", name(r), err)
	}
	return noContent(w, nil)
}

func (rt *Router) pause(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, rt.containers.Pause(r.Context(), name(r)))
}

func (rt *Router) unpause(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, rt.containers.Unpause(r.Context(), name(r)))
}

func (rt *Router) rename(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, rt.containers.Rename(r.Context(), name(r), r.Form.Get("name")))
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, rt.containers.Remove(r.Context(), name(r), domain.RemoveOptions{
		Force:   route.Bool(r, "force"),
		Volumes: route.Bool(r, "v"),
		Link:    route.Bool(r, "link"),
	}))
}

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	report, err := rt.containers.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, report)
}

// wait answers its header at once, so that a client knows when it is waiting.
func (rt *Router) wait(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	headerFirst := route.AtLeast(ctx, "1.30")
	cond := container.WaitConditionNotRunning
	if v := r.Form.Get("condition"); v != "" && headerFirst {
		cond = container.WaitCondition(v)
		switch cond {
		case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
		default:
			return invalid("invalid condition: %q", v)
		}
	}
	exit, err := rt.containers.Wait(ctx, name(r), cond)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if headerFirst {
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
	}
	select {
	case resp := <-exit:
		// Before 1.34 an empty answer was the only way to say that a removal failed.
		if resp.Error != nil && cond == container.WaitConditionRemoved && !route.AtLeast(ctx, "1.34") {
			return nil
		}
		return json.NewEncoder(w).Encode(resp)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (rt *Router) resize(w http.ResponseWriter, r *http.Request) error {
	height, width, err := size(r)
	if err != nil {
		return err
	}
	if err := rt.containers.Resize(r.Context(), name(r), height, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// size reads the size of a terminal.
func size(r *http.Request) (height, width uint32, err error) {
	if height, err = uint32Value(r, "h"); err != nil {
		return 0, 0, invalid("invalid resize height %q: %v", r.Form.Get("h"), err)
	}
	if width, err = uint32Value(r, "w"); err != nil {
		return 0, 0, invalid("invalid resize width %q: %v", r.Form.Get("w"), err)
	}
	return height, width, nil
}

func uint32Value(r *http.Request, key string) (uint32, error) {
	v, negative := strings.CutPrefix(r.Form.Get(key), "-")
	if v == "" || v[0] == '+' {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if e, ok := err.(*strconv.NumError); ok { //nolint:errorlint // ParseUint returns exactly this type
		return 0, e.Err
	}
	if negative {
		return 0, strconv.ErrRange
	}
	return uint32(n), nil
}

func (rt *Router) update(w http.ResponseWriter, r *http.Request) error {
	var u container.UpdateConfig
	if err := route.Decode(r, &u, true); err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), "1.40") {
		u.PidsLimit = nil
	}
	if !route.AtLeast(r.Context(), "1.55") {
		u.BlkioWeightDevice = nil
		u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
	if u.PidsLimit != nil && *u.PidsLimit < 0 {
		*u.PidsLimit = 0 // any negative limit is none, as 0 is
	}
	warnings, err := rt.containers.Update(r.Context(), name(r), u)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, container.UpdateResponse{Warnings: warnings})
}
