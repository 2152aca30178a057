package executor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/template"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/atomicfile"
)

// secretsSize bounds the file system that holds the secrets and configs of all
// tasks of a node; each is at most 1 MB.
const secretsSize = "size=256m,mode=0700"

// file is a secret or config as a container shall see it.
type file struct {
	target   string // in the container
	data     []byte
	uid, gid string
	mode     os.FileMode
}

// secretTarget and configTarget are where Docker puts what is named without a path.
func secretTarget(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/run/secrets", name)
}

func configTarget(name string) string { return path.Join("/", name) }

// files collects what a task's container is to be given.
func (e *Executor) files(t *api.Task, node *api.NodeDescription) ([]file, error) {
	spec := t.Spec.GetContainer()
	if len(spec.Secrets)+len(spec.Configs) == 0 {
		return nil, nil
	}
	deps := e.restrict(t)
	var out []file
	for _, r := range spec.Secrets {
		target := r.GetFile()
		if target == nil {
			return nil, fmt.Errorf("secret %s has no target file", r.SecretName)
		}
		s, err := deps.Secrets().Get(r.SecretID)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", r.SecretName, err)
		}
		if s == nil {
			return nil, exec.MakeTemporary(fmt.Errorf("secret %s has not reached this node yet", r.SecretName))
		}
		expanded, err := template.ExpandSecretSpec(s, node, t, deps)
		if err != nil {
			return nil, fmt.Errorf("expand secret %s: %w", r.SecretName, err)
		}
		out = append(out, file{secretTarget(target.Name), expanded.Data, target.UID, target.GID, target.Mode})
	}
	for _, r := range spec.Configs {
		target := r.GetFile()
		if target == nil {
			continue // for the runtime: refused by the API
		}
		c, err := deps.Configs().Get(r.ConfigID)
		if err != nil {
			return nil, fmt.Errorf("config %s: %w", r.ConfigName, err)
		}
		if c == nil {
			return nil, exec.MakeTemporary(fmt.Errorf("config %s has not reached this node yet", r.ConfigName))
		}
		expanded, _, err := template.ExpandConfigSpec(c, node, t, deps)
		if err != nil {
			return nil, fmt.Errorf("expand config %s: %w", r.ConfigName, err)
		}
		out = append(out, file{configTarget(target.Name), expanded.Data, target.UID, target.GID, target.Mode})
	}
	return out, nil
}

// writeFiles puts a task's files into memory and returns the mounts that show
// them to the container. Doing it again gives the same.
func (e *Executor) writeFiles(task string, fs []file) ([]mount.Mount, error) {
	if len(fs) == 0 {
		return nil, nil
	}
	if err := e.mountSecretsDir(); err != nil {
		return nil, err
	}
	dir := filepath.Join(e.d.SecretsDir, task)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of a task's secrets: %w", err)
	}
	var out []mount.Mount
	for i, f := range fs {
		uid, err := number(f.uid)
		if err != nil {
			return nil, fmt.Errorf("owner of %s: %w", f.target, err)
		}
		gid, err := number(f.gid)
		if err != nil {
			return nil, fmt.Errorf("group of %s: %w", f.target, err)
		}
		p := filepath.Join(dir, strconv.Itoa(i))
		if err := atomicfile.Write(p, f.data, f.mode.Perm()); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.target, err)
		}
		if err := os.Chown(p, uid, gid); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.target, err)
		}
		if err := os.Chmod(p, f.mode.Perm()); err != nil { // chown takes bits away
			return nil, fmt.Errorf("write %s: %w", f.target, err)
		}
		out = append(out, mount.Mount{Type: mount.TypeBind, Source: p, Target: f.target, ReadOnly: true})
	}
	return out, nil
}

func number(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	return strconv.Atoi(s)
}

func (e *Executor) mountSecretsDir() error {
	e.mounting.Lock()
	defer e.mounting.Unlock()
	if err := os.MkdirAll(e.d.SecretsDir, 0o700); err != nil {
		return fmt.Errorf("make the folder of secrets: %w", err)
	}
	if on, err := mountinfo.Mounted(e.d.SecretsDir); err != nil || on {
		return err
	}
	if err := unix.Mount("tmpfs", e.d.SecretsDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, secretsSize); err != nil {
		return fmt.Errorf("mount memory for secrets: %w", err)
	}
	return nil
}

func (e *Executor) dropSecrets(task string) error {
	if task == "" || filepath.Base(task) != task {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(e.d.SecretsDir, task)); err != nil {
		return fmt.Errorf("remove the secrets of task %s: %w", task, err)
	}
	return nil
}

// dropSecretsDir takes the file system away, once no task is left.
func (e *Executor) dropSecretsDir() error {
	e.mounting.Lock()
	defer e.mounting.Unlock()
	on, err := mountinfo.Mounted(e.d.SecretsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && on {
		err = unix.Unmount(e.d.SecretsDir, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount the memory of secrets: %w", err)
	}
	if err := os.RemoveAll(e.d.SecretsDir); err != nil {
		return fmt.Errorf("remove the folder of secrets: %w", err)
	}
	return nil
}
