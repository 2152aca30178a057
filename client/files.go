package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"holdfast.dev/holdfast/api"
)

func filesPath(volume string, q url.Values) string {
	return path(api.PathVolumeFiles, volume, "") + "?" + q.Encode()
}

func statOf(h http.Header) (st api.PathStat, err error) {
	b, err := base64.StdEncoding.DecodeString(h.Get(api.PathStatHeader))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, fmt.Errorf("decode what the daemon says of the file: %w", err)
	}
	return st, nil
}

// StatVolumeFile describes a file of a volume, or of VOLUME@SNAPSHOT. A link is not
// followed. errdefs.ErrNotFound where it, or the volume, is not there.
func (c *Client) StatVolumeFile(ctx context.Context, volume, file string) (st api.PathStat, err error) {
	err = c.sendFull(ctx, http.MethodHead, filesPath(volume, url.Values{"path": {file}}), "", nil, func(resp *http.Response) error {
		st, err = statOf(resp.Header)
		return err
	})
	return st, err
}

// ReadVolumeFiles hands a file or directory of a volume, or of VOLUME@SNAPSHOT, to
// take as a tar. One that was cut off, whatever the reason, is an error.
func (c *Client) ReadVolumeFiles(ctx context.Context, volume, file string, take func(api.PathStat, io.Reader) error) error {
	return c.sendFull(ctx, http.MethodGet, filesPath(volume, url.Values{"path": {file}}), "", nil, func(resp *http.Response) error {
		st, err := statOf(resp.Header)
		if err != nil {
			return err
		}
		return take(st, resp.Body)
	})
}

// WriteVolumeFiles unpacks a tar into a directory of a volume. What is there stays,
// or is replaced by what has the same name.
func (c *Client) WriteVolumeFiles(ctx context.Context, volume, dir string, tar io.Reader) error {
	q := url.Values{"path": {dir}, "noOverwriteDirNonDir": {"true"}}
	// It is the caller's to close.
	return c.send(ctx, http.MethodPut, filesPath(volume, q), "application/x-tar", io.NopCloser(tar), func(io.Reader) error { return nil })
}
