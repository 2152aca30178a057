package tree

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Difference is a file that is not as an index says.
type Difference struct {
	Path string `json:"path"`
	What string `json:"what"`
}

func (d Difference) String() string { return d.Path + ": " + d.What }

// Contents opens a file's content.
type Contents func(ctx context.Context, e *Entry) (io.ReadCloser, error)

const xattrPrefix = "SCHILY.xattr."

// Tar writes the tree that an index describes as a tar. A content that cannot be had,
// or is not what its digest says, ends it; with onDamage, it is told of and the file
// has zeros where its content should be, so that the rest can be had.
func Tar(ctx context.Context, index *IndexReader, open Contents, to io.Writer, onDamage func(Difference)) (Totals, error) {
	var t Totals
	tw := tar.NewWriter(to)
	bad := map[Text]bool{}
	for {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		e, err := index.Next()
		if errors.Is(err, io.EOF) {
			return t, tw.Close()
		}
		if err != nil {
			return t, err
		}
		if err := tw.WriteHeader(header(e)); err != nil {
			return t, fmt.Errorf("%s: %w", e.Path, err)
		}
		switch e.Kind {
		case File:
			t.Files++
			t.Bytes += e.Size
			err = content(ctx, e, open, tw)
		case HardLink:
			if bad[e.Link] {
				err = damage{fmt.Errorf("it is another name of %s", e.Link)}
			}
		default: // nothing more is in the tar
		}
		var d damage
		switch {
		case err == nil:
		case errors.As(err, &d) && onDamage != nil && ctx.Err() == nil:
			bad[e.Path] = true
			onDamage(Difference{Path: e.Path.Escaped(), What: d.Error()})
		default:
			return t, fmt.Errorf("%s: %w", e.Path.Escaped(), err)
		}
	}
}

// damage is an error of what was to be read, not of who takes it.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func content(ctx context.Context, e *Entry, open Contents, to io.Writer) error {
	sum := sha256.New()
	n, err := stream(ctx, e, open, io.MultiWriter(to, sum))
	var d damage
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != e.Digest {
		err = damage{errors.New("its content is not the one that was backed up")}
	}
	if !errors.As(err, &d) {
		return err
	}
	if _, perr := io.CopyN(to, zeros{}, e.Size-n); perr != nil { // the header has promised that much
		return perr
	}
	return err
}

func stream(ctx context.Context, e *Entry, open Contents, to io.Writer) (n int64, err error) {
	if e.Size == 0 && e.Object == "" {
		return 0, nil
	}
	r, err := open(ctx, e)
	if err != nil {
		return 0, damage{fmt.Errorf("its content cannot be read: %w", err)}
	}
	defer func() {
		if cerr := r.Close(); err == nil && cerr != nil {
			err = damage{cerr}
		}
	}()
	b := make([]byte, 256<<10)
	for n < e.Size {
		k, rerr := r.Read(b[:min(int64(len(b)), e.Size-n)])
		if k > 0 {
			w, werr := to.Write(b[:k])
			n += int64(w)
			if werr != nil {
				return n, werr
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return n, damage{fmt.Errorf("its content cannot be read: %w", rerr)}
		}
	}
	if n < e.Size {
		return n, damage{fmt.Errorf("its content ends after %d of %d bytes", n, e.Size)}
	}
	return n, nil
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func header(e *Entry) *tar.Header {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: "./" + string(e.Path), Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: time.Unix(0, e.MTime), Size: e.Size,
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+string(k)] = string(v)
	}
	switch e.Kind {
	case File:
		h.Typeflag = tar.TypeReg
	case Directory:
		h.Typeflag, h.Size = tar.TypeDir, 0
		h.Name += "/"
	case Symlink:
		h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, string(e.Link)
	case HardLink:
		h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, "./"+string(e.Link)
	case Fifo:
		h.Typeflag, h.Size = tar.TypeFifo, 0
	case CharDev, BlockDev:
		h.Typeflag, h.Size = tar.TypeChar, 0
		if e.Kind == BlockDev {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.Device)), int64(unix.Minor(e.Device))
	}
	return h
}
