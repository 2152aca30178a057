package plugin

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/plugin"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Privileges tells what the plugin of a registry wants.
func (s *Service) Privileges(ctx context.Context, ref reference.Named, r Remote) (plugin.Privileges, error) {
	b, err := s.d.Content.Look(ctx, ref.String(), r)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(b)
	if err != nil {
		return nil, err
	}
	return privileges(&c), nil
}

// NameFor is the name that a plugin from a registry gets: the one that is wanted,
// or else the reference's own.
func NameFor(ref reference.Named, want string) (string, error) {
	if want == "" {
		want = reference.TrimNamed(ref).String()
		if t, ok := ref.(reference.Tagged); ok {
			want += ":" + t.Tag()
		}
	}
	return familiar(want)
}

// Pull installs a plugin, disabled, under a name of NameFor that is free. Exactly
// what it wants must have been granted.
func (s *Service) Pull(ctx context.Context, ref reference.Named, name string, granted plugin.Privileges, r Remote, p Progress) error {
	_, err := s.install(ctx, name, ref.String(), &granted, func(ctx context.Context, claim string) (Artifact, error) {
		return s.d.Content.Pull(ctx, claim, ref.String(), r, p)
	})
	if err != nil {
		return err
	}
	s.emit(events.ActionPull, reference.FamiliarString(ref), name)
	return nil
}

// Create installs a plugin, disabled, from a tar stream of config.json and rootfs/.
func (s *Service) Create(ctx context.Context, name string, archive io.Reader) error {
	name, err := familiar(name)
	if err != nil {
		return err
	}
	id, err := s.install(ctx, name, name, nil, func(ctx context.Context, claim string) (Artifact, error) { return s.pack(ctx, claim, archive) })
	if err != nil {
		return err
	}
	s.emit(events.ActionCreate, id, name)
	return nil
}

// install makes a plugin: its record first, then what fetch gets, then the record
// again.
func (s *Service) install(
	ctx context.Context, name, ref string, granted *plugin.Privileges, fetch func(ctx context.Context, claim string) (Artifact, error),
) (string, error) {
	id, err := s.newID()
	if err != nil {
		return "", err
	}
	unlock, err := s.locks.Lock(ctx, "name "+name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := s.find(name); err == nil {
		return "", fault.New(errdefs.ErrAlreadyExists, "plugin %q already exists", name)
	}
	r := Record{ID: id, Name: name, Reference: ref, Phase: Installing, Claim: claimOf(id, id), Root: rootOf(id)}
	if err := s.put(r); err != nil {
		return "", err
	}
	err = s.fill(ctx, &r, granted, fetch)
	if err == nil {
		r.Settings, r.Phase = settingsOf(&r.Config), Ready
		err = s.put(r)
	}
	if err != nil {
		return "", errors.Join(err, s.remove(context.WithoutCancel(ctx), &r))
	}
	return id, nil
}

// claimOf names the claim of one installation of a plugin.
func claimOf(id, unique string) string { return "plugin-" + id[:16] + "-" + unique[:16] }

func rootOf(unique string) string { return "rootfs-" + unique[:16] }

// fill fetches a plugin's content for the record's claim and unpacks it.
func (s *Service) fill(
	ctx context.Context, r *Record, granted *plugin.Privileges, fetch func(ctx context.Context, claim string) (Artifact, error),
) error {
	a, err := fetch(ctx, r.Claim)
	if err != nil {
		return err
	}
	c, err := parseConfig(a.Config)
	if err != nil {
		return err
	}
	if granted != nil && !samePrivileges(privileges(&c), *granted) {
		return fault.New(errdefs.ErrPermissionDenied, "incorrect privileges: plugin %s wants others than were granted", r.Name)
	}
	rootfs := s.at(r).rootfs
	if err := os.MkdirAll(rootfs, 0o755); err != nil { //nolint:gosec // the plugin's own users read it
		return fmt.Errorf("make the root of plugin %s: %w", r.Name, err)
	}
	if err := os.Chmod(filepath.Dir(rootfs), 0o700); err != nil {
		return fmt.Errorf("close the directory of plugin %s: %w", r.Name, err)
	}
	if err := s.d.Content.Extract(ctx, a.Layers, rootfs); err != nil {
		return err
	}
	r.Config, r.Target = c, a.Target
	return nil
}

// Upgrade puts another version in a disabled plugin's place. Settings are the new
// version's; a failing upgrade changes nothing.
func (s *Service) Upgrade(ctx context.Context, name string, ref reference.Named, granted plugin.Privileges, remote Remote, p Progress) error {
	return s.change(ctx, name, func(old Record) error {
		if old.Enabled {
			return fault.New(errdefs.ErrFailedPrecondition, "plugin must be disabled before upgrading: plugin %q is enabled", old.Name)
		}
		fresh, err := s.newID()
		if err != nil {
			return err
		}
		r := old
		r.Claim, r.Root, r.Reference = claimOf(r.ID, fresh), rootOf(fresh), ref.String()
		err = s.fill(ctx, &r, &granted, func(ctx context.Context, claim string) (Artifact, error) {
			return s.d.Content.Pull(ctx, claim, ref.String(), remote, p)
		})
		ctx := context.WithoutCancel(ctx)
		if err != nil {
			return errors.Join(err, s.discard(ctx, &r))
		}
		r.Settings = settingsOf(&r.Config)
		// From here on it is the new one. Where that fails nobody knows which of the
		// two is on the disk: the next start does, and removes the other.
		if err := s.put(r); err != nil {
			return err
		}
		s.emit(events.ActionPull, reference.FamiliarString(ref), old.Name)
		return s.discard(ctx, &old)
	})
}

// discard removes a version of a plugin. The plugin's record names another.
func (s *Service) discard(ctx context.Context, r *Record) error {
	return errors.Join(os.RemoveAll(s.at(r).rootfs), s.d.Content.Drop(ctx, r.Claim))
}

// Push sends a plugin to the registry that its name says.
func (s *Service) Push(ctx context.Context, name string, r Remote, p Progress) error {
	rec, err := s.find(name)
	if err != nil {
		return err
	}
	ref, err := reference.ParseNormalizedNamed(rec.Name)
	if err != nil {
		return fmt.Errorf("plugin has invalid name %s for push: %w", rec.Name, err)
	}
	p.Message("", fmt.Sprintf("The push refers to repository [%s]", ref.Name()))
	if err := s.d.Content.Push(ctx, ref.String(), rec.Target, r, p); err != nil {
		return err
	}
	tag := "latest"
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	p.Message("", fmt.Sprintf("%s: digest: %s size: %d", tag, rec.Target.Digest, rec.Target.Size))
	s.emit(events.ActionPush, rec.ID, rec.Name)
	return nil
}

// pack stores what a tar stream of config.json and rootfs/ has.
func (s *Service) pack(ctx context.Context, claim string, archive io.Reader) (Artifact, error) {
	pr, pw := io.Pipe()
	var config []byte
	split := make(chan error, 1)
	go func() { // ends with the archive, or when the reading end is closed
		var err error
		config, err = splitArchive(archive, pw)
		_ = pw.CloseWithError(err) // never fails
		split <- err
	}()
	a, err := s.d.Content.Pack(ctx, claim, pr, func(diffID string) ([]byte, error) {
		c, err := parseConfig(config) // all of the archive was read: it is whole
		if err != nil {
			return nil, err
		}
		c.Rootfs = &plugin.RootFS{Type: "layers", DiffIds: []string{diffID}}
		return json.Marshal(c)
	})
	_ = pr.Close() // never fails
	if serr := <-split; err == nil {
		err = serr
	}
	return a, err
}

// splitArchive takes config.json out of a plugin's archive and writes what is
// below rootfs/ as an archive of its own.
func splitArchive(in io.Reader, rootfs io.Writer) (config []byte, err error) {
	invalid := func(err error) ([]byte, error) {
		return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "read the plugin's archive")
	}
	tr, tw := tar.NewReader(in), tar.NewWriter(rootfs)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return invalid(err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		if name == "config.json" {
			if config, err = io.ReadAll(io.LimitReader(tr, maxConfig+1)); err != nil {
				return invalid(err)
			}
			continue
		}
		inside, ok := strings.CutPrefix(name, "rootfs/")
		if !ok {
			if name == "rootfs" {
				continue
			}
			return invalid(fmt.Errorf("%q is neither config.json nor below rootfs/", h.Name))
		}
		h.Name = inside
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			if h.Linkname, ok = strings.CutPrefix(path.Clean(strings.TrimPrefix(h.Linkname, "/")), "rootfs/"); !ok {
				return invalid(fmt.Errorf("the link %q leads out of rootfs/", inside))
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			return invalid(err)
		}
		if _, err := io.Copy(tw, tr); err != nil { //nolint:gosec // goes to disk as a stream, whose owner is root
			return invalid(err)
		}
	}
	if config == nil {
		return invalid(errors.New("it has no config.json"))
	}
	return config, tw.Close()
}
