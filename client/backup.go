package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"holdfast.dev/holdfast/api"
)

func backupPath(pattern, id string) string {
	return strings.ReplaceAll(pattern, "{backup}", url.PathEscape(id))
}

// AddBackupRepository makes a repository, or takes one that is there.
// errdefs.ErrPermissionDenied: its password is another.
func (c *Client) AddBackupRepository(ctx context.Context, r api.BackupRepositoryAdd) (api.BackupRepository, error) {
	var out api.BackupRepository
	err := c.call(ctx, http.MethodPost, api.PathBackupRepositories, r, &out)
	return out, err
}

// BackupRepositories lists the repositories by name.
func (c *Client) BackupRepositories(ctx context.Context) ([]api.BackupRepository, error) {
	var out []api.BackupRepository
	err := c.call(ctx, http.MethodGet, api.PathBackupRepositories, nil, &out)
	return out, err
}

// RemoveBackupRepository forgets a repository. What is in it stays.
func (c *Client) RemoveBackupRepository(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, path(api.PathBackupRepository, name, ""), nil, nil)
}

// BackupVolume makes a backup and waits for it.
func (c *Client) BackupVolume(ctx context.Context, volume string, r api.BackupCreate) (api.Backup, error) {
	var out api.Backup
	err := c.call(ctx, http.MethodPost, path(api.PathVolumeBackup, volume, ""), r, &out)
	return out, err
}

// Backups lists the backups of a volume in a repository; empty: of all, in all.
func (c *Client) Backups(ctx context.Context, volume, repository string) (api.BackupList, error) {
	q := url.Values{}
	if volume != "" {
		q.Set("volume", volume)
	}
	if repository != "" {
		q.Set("repository", repository)
	}
	var out api.BackupList
	err := c.call(ctx, http.MethodGet, api.PathBackups+"?"+q.Encode(), nil, &out)
	return out, err
}

// RestoreBackup makes a volume of a backup. errdefs.ErrConflict where the volume is
// there and was not to be replaced, errdefs.ErrDataLoss where a file cannot be had.
func (c *Client) RestoreBackup(ctx context.Context, id string, r api.BackupRestore) (api.BackupRestored, error) {
	var out api.BackupRestored
	err := c.call(ctx, http.MethodPost, backupPath(api.PathBackupRestore, id), r, &out)
	return out, err
}

// VerifyBackup restores a backup into a scratch volume and compares.
func (c *Client) VerifyBackup(ctx context.Context, id string) (api.BackupVerification, error) {
	var out api.BackupVerification
	err := c.call(ctx, http.MethodPost, backupPath(api.PathBackupVerify, id), nil, &out)
	return out, err
}

// RemoveBackup forgets a backup.
func (c *Client) RemoveBackup(ctx context.Context, id string) (api.Backup, error) {
	var out api.Backup
	err := c.call(ctx, http.MethodDelete, backupPath(api.PathBackup, id), nil, &out)
	return out, err
}
