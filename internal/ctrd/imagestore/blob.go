package imagestore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

// blob is something written to the content store.
type blob struct {
	digest digest.Digest
	size   int64
	format format
	layer  bool          // it looked like one, so diffID is known
	diffID digest.Digest // of the uncompressed stream
	length int64         // of the uncompressed stream
	staged staged
}

// ingest writes a blob while reading it once. What looks like a layer is
// staged at the same time.
func (s *Store) ingest(ctx context.Context, r io.Reader, size int64, progress func(int64)) (blob, error) {
	return s.ingestAs(ctx, r, ocispec.Descriptor{Size: size}, progress)
}

// ingestAs is ingest for a blob of which the digest or, unless negative, the
// size is known beforehand; anything else is refused.
func (s *Store) ingestAs(ctx context.Context, r io.Reader, want ocispec.Descriptor, progress func(int64)) (blob, error) {
	in := bufio.NewReaderSize(r, 4096)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return blob{}, err
	}
	b := blob{format: formatOf(head)}
	b.layer = b.format == gzipped || b.format == zstded || isTar(head)
	w, err := s.writer(ctx)
	if err != nil {
		return blob{}, err
	}
	defer w.Close()
	var u *unpacking
	if b.layer {
		u = s.unpackStream(ctx, b.format)
	}
	src := io.Reader(in)
	if want.Size >= 0 {
		src = io.LimitReader(in, want.Size+1)
	}
	n, err := pump(src, w, u, progress)
	if u != nil {
		u.p.close(err)
		<-u.done
		if err == nil {
			err = u.err
		}
		b.staged, b.diffID, b.length = u.staged, u.diffID, u.size
	}
	if err == nil && want.Size >= 0 && n != want.Size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && want.Digest != "" && w.Digest() != want.Digest {
		err = fault.New(errdefs.ErrDataLoss, "it is %s, not what was asked for", w.Digest())
	}
	if err != nil {
		s.drop(ctx, b.staged.key)
		return blob{}, errors.Join(err, s.abort(ctx, w))
	}
	b.digest, b.size = w.Digest(), n
	if b.layer && b.format == plain {
		b.diffID = b.digest
	}
	if err := s.commit(ctx, w, b); err != nil {
		s.drop(ctx, b.staged.key)
		return blob{}, err
	}
	return b, nil
}

// writer opens a new blob.
func (s *Store) writer(ctx context.Context) (content.Writer, error) {
	ref, err := unique("holdfast-")
	if err != nil {
		return nil, err
	}
	w, err := content.OpenWriter(ctx, s.d.Content, content.WithRef(ref))
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return w, nil
}

// abort forgets what was written so far.
func (s *Store) abort(ctx context.Context, w content.Writer) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	st, err := w.Status()
	if err != nil {
		return nil //nolint:nilerr // nothing there to abort
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("close blob: %w", err)
	}
	if err := s.d.Content.Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("discard blob: %w", err)
	}
	return nil
}

func (s *Store) commit(ctx context.Context, w content.Writer, b blob) error {
	var opts []content.Opt
	if b.layer {
		opts = append(opts, content.WithLabels(map[string]string{labels.LabelUncompressed: b.diffID.String()}))
	}
	err := w.Commit(ctx, b.size, b.digest, opts...)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store blob: %w", errors.Join(err, s.abort(ctx, w)))
	}
	return nil
}

// pump copies to the blob and, if there is one, to the unpacking end.
func pump(r io.Reader, w io.Writer, u *unpacking, progress func(int64)) (int64, error) {
	var n int64
	var own []byte
	if u == nil {
		own = make([]byte, 32<<10)
	}
	for {
		buf := own
		if u != nil {
			buf = u.p.block()
		}
		k, err := fill(r, buf)
		if k > 0 {
			if _, werr := w.Write(buf[:k]); werr != nil {
				return n, fmt.Errorf("write blob: %w", werr)
			}
			n += int64(k)
			if u != nil {
				u.p.put(buf[:k])
			}
			if progress != nil {
				progress(n)
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// fill reads until buf is full or the reader ends; unlike io.ReadFull it leaves
// the reader's error as it is.
func fill(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		k, err := r.Read(buf[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Read implements image.Layers.
func (s *Store) Read(ctx context.Context, r io.Reader) (image.Layer, error) {
	ctx = s.ns(ctx)
	in := bufio.NewReaderSize(r, 64<<10)
	f, err := sniff(in)
	if err != nil {
		return image.Layer{}, err
	}
	if f == gzipped || f == zstded {
		b, err := s.ingest(ctx, in, -1, nil)
		if err != nil {
			return image.Layer{}, refuse(err)
		}
		return b.layerOf(), nil
	}
	l, err := s.readPlain(ctx, in, f)
	return l, refuse(err)
}

// Layer implements image.Content.
func (s *Store) Layer(ctx context.Context, d ocispec.Descriptor, told func(int64)) (_ io.ReadCloser, err error) {
	ra, err := s.d.Content.ReaderAt(s.ns(ctx), d)
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ra.Close())
		}
	}()
	in := bufio.NewReaderSize(&toldReader{Reader: content.NewReader(ra), told: told}, 256<<10)
	f, err := sniff(in)
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	z, err := decompress(in, f)
	if err != nil {
		return nil, err
	}
	return &layerReader{z: z, ra: ra}, nil
}

// toldReader tells how much it has read.
type toldReader struct {
	io.Reader
	n    int64
	told func(int64)
}

// Read implements io.Reader.
func (t *toldReader) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.n += int64(n)
	t.told(t.n)
	return n, err
}

// layerReader reads a stored layer through its compression.
type layerReader struct {
	z  io.ReadCloser
	ra io.Closer
}

// Read implements io.Reader.
func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.z.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = refuse(err)
	}
	return n, err
}

// Close implements io.Closer.
func (l *layerReader) Close() error { return errors.Join(l.z.Close(), l.ra.Close()) }

// readPlain stores a layer that comes uncompressed, or in a compression that
// images don't know, as gzip.
func (s *Store) readPlain(ctx context.Context, r io.Reader, f format) (_ image.Layer, err error) {
	in, err := decompress(r, f)
	if err != nil {
		return image.Layer{}, err
	}
	defer in.Close()
	w, err := s.writer(ctx)
	if err != nil {
		return image.Layer{}, err
	}
	defer w.Close()
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return image.Layer{}, err
	}
	hash := digest.Canonical.Digester()
	u := s.unpackStream(ctx, plain)
	n, err := pump(in, io.MultiWriter(hash.Hash(), z), u, nil)
	if err == nil {
		err = z.Close()
	}
	u.p.close(err)
	<-u.done
	if err == nil {
		err = u.err
	}
	if err != nil {
		s.drop(ctx, u.staged.key)
		return image.Layer{}, errors.Join(err, s.abort(ctx, w))
	}
	st, err := w.Status()
	if err != nil {
		return image.Layer{}, fmt.Errorf("measure blob: %w", err)
	}
	b := blob{
		digest: w.Digest(), size: st.Offset, format: gzipped,
		layer: true, diffID: hash.Digest(), length: n, staged: u.staged,
	}
	if err := s.commit(ctx, w, b); err != nil {
		s.drop(ctx, b.staged.key)
		return image.Layer{}, err
	}
	return b.layerOf(), nil
}

func (b blob) layerOf() image.Layer {
	var mt string
	switch b.format {
	case gzipped:
		mt = ocispec.MediaTypeImageLayerGzip
	case zstded:
		mt = ocispec.MediaTypeImageLayerZstd
	default: // other formats were changed to one of these on their way in
		mt = ocispec.MediaTypeImageLayer
	}
	return image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: mt, Digest: b.digest, Size: b.size},
		DiffID:     b.diffID,
		Staged:     b.staged,
		Size:       b.length,
	}
}

// writeJSON stores a manifest or config. Labels keep what it refers to.
func (s *Store) writeJSON(ctx context.Context, mediaType string, v any, gc map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	ref, err := unique("holdfast-")
	if err != nil {
		return d, err
	}
	var opts []content.Opt
	if gc != nil {
		opts = append(opts, content.WithLabels(gc))
	}
	if err := content.WriteBlob(ctx, s.d.Content, ref, bytes.NewReader(b), d, opts...); err != nil {
		return d, fmt.Errorf("store %s: %w", mediaType, err)
	}
	return d, nil
}
