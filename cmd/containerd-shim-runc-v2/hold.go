package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// holder is the task service with the outputs of its processes held open.
type holder struct {
	taskapi.TTRPCTaskService

	mu      sync.Mutex            // guards what follows
	held    map[string][]*os.File // by container and exec ID
	used    bool                  // a task was asked for
	retired bool                  // and none will be made any more
}

func newHolder(inner taskapi.TTRPCTaskService) *holder {
	return &holder{TTRPCTaskService: inner, held: map[string][]*os.File{}}
}

// RegisterTTRPC is what the shim's server looks for.
func (h *holder) RegisterTTRPC(s *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(s, h)
	return nil
}

// retire refuses tasks from now on, unless one was made. It tells which.
func (h *holder) retire() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retired = !h.used
	return h.retired
}

func (h *holder) use() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.retired {
		return errors.New("the daemon that started this shim is gone")
	}
	h.used = true
	return nil
}

// Create holds the main process's outputs.
func (h *holder) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := h.use(); err != nil {
		return nil, err
	}
	key := processKey(r.GetID(), "")
	if err := h.hold(key, r.GetStdout(), r.GetStderr()); err != nil {
		return nil, err
	}
	resp, err := h.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		h.release(key)
	}
	return resp, err
}

// Exec holds another process's outputs.
func (h *holder) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	key := processKey(r.GetID(), r.GetExecID())
	if err := h.hold(key, r.GetStdout(), r.GetStderr()); err != nil {
		return nil, err
	}
	resp, err := h.TTRPCTaskService.Exec(ctx, r)
	if err != nil {
		h.release(key)
	}
	return resp, err
}

// Delete lets go.
func (h *holder) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	resp, err := h.TTRPCTaskService.Delete(ctx, r)
	if err == nil {
		h.release(processKey(r.GetID(), r.GetExecID()))
	}
	return resp, err
}

func processKey(container, exec string) string { return container + "/" + exec }

// hold opens the reading ends of fifos; other kinds of output need no help.
func (h *holder) hold(key string, paths ...string) error {
	var files []*os.File
	for _, p := range paths {
		if info, err := os.Stat(p); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			continue
		}
		f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			closeAll(files)
			return fmt.Errorf("hold output: %w", err)
		}
		files = append(files, f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[key] = append(h.held[key], files...)
	return nil
}

func (h *holder) release(key string) {
	h.mu.Lock()
	files := h.held[key]
	delete(h.held, key)
	h.mu.Unlock()
	closeAll(files)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // only ever read from
	}
}
