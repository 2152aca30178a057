package openfile

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// longest is how much of a path an address of a unix socket holds, with the zero
// byte at its end: sun_path of unix(7).
const longest = 108

// Dial connects to the unix socket at path, whose length has no limit: a longer one
// than an address holds is reached through a handle of its folder.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	d := &net.Dialer{}
	if len(path) < longest {
		return d.DialContext(ctx, "unix", path)
	}
	folder, err := os.OpenFile(filepath.Dir(path), syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: err}
	}
	defer folder.Close()
	return d.DialContext(ctx, "unix", filepath.Join(Path(int(folder.Fd())), filepath.Base(path)))
}
