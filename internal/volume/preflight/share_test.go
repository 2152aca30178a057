package preflight

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// shareNode behaves as SMB and Azure Files do to initdb: everything belongs to
// root with mode 0777, whatever chmod and chown say, and there are no links.
type shareNode struct {
	*fs.LoopbackNode
	hang <-chan struct{} // if set, fsync waits for it
}

// WrapChild makes what is below such nodes, too.
func (n *shareNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	l, ok := ops.(*fs.LoopbackNode)
	if !ok {
		return ops
	}
	return &shareNode{LoopbackNode: l, hang: n.hang}
}

func (n *shareNode) flat(a *fuse.Attr) {
	a.Mode = a.Mode&^0o7777 | 0o777
	a.Owner = fuse.Owner{}
}

func (n *shareNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	errno := n.LoopbackNode.Getattr(ctx, f, out)
	n.flat(&out.Attr)
	return errno
}

func (n *shareNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	in.Valid &^= fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID
	errno := n.LoopbackNode.Setattr(ctx, f, in, out)
	n.flat(&out.Attr)
	return errno
}

func (n *shareNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	i, errno := n.LoopbackNode.Lookup(ctx, name, out)
	n.flat(&out.Attr)
	return i, errno
}

func (*shareNode) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EOPNOTSUPP
}

func (*shareNode) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EOPNOTSUPP
}

func (n *shareNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if n.hang != nil {
		<-n.hang
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

// share mounts such a file system and returns its directory.
func share(t *testing.T) string { return hangingShare(t, nil) }

func hangingShare(t *testing.T, hang <-chan struct{}) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("requirement missing: /dev/fuse")
		}
		t.Skip("requirement missing: /dev/fuse")
	}
	root := &fs.LoopbackRoot{Path: t.TempDir()}
	top := &shareNode{LoopbackNode: &fs.LoopbackNode{RootData: root}, hang: hang}
	root.RootNode = top
	dir := t.TempDir()
	srv, err := fs.Mount(dir, top, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, FsName: "share", Name: "share"}})
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}
