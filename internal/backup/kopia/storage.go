package kopia

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/azure"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/blob/gcs"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/kopia/kopia/repo/blob/sftp"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/maintenance"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/fault"
)

const (
	username = "holdfast"
	// openLimit is how long a repository may take until it is taken for one that
	// cannot be reached.
	openLimit = 45 * time.Second
	// metadataCache bounds what is kept here of a repository elsewhere.
	metadataCache = 256 << 20
)

func prefix(p string) string {
	if p == "" {
		return ""
	}
	return p + "/"
}

func yes(options map[string]string, key string) (bool, error) {
	v, ok := options[key]
	if !ok {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fault.New(errdefs.ErrInvalidArgument, "repository option %s: %q is neither true nor false", key, v)
	}
	return b, nil
}

// storage opens a place.
func storage(ctx context.Context, a backup.Access, create bool) (blob.Storage, error) {
	p, secret := a.Place, a.Secrets
	insecure, err := yes(p.Options, "insecure")
	if err != nil {
		return nil, err
	}
	skip, err := yes(p.Options, "skip-verify")
	if err != nil {
		return nil, err
	}
	switch p.Kind {
	case backup.Files:
		if create {
			if err := os.MkdirAll(p.Path, 0o700); err != nil {
				return nil, err
			}
		}
		return filesystem.New(ctx, &filesystem.Options{Path: p.Path}, create)
	case backup.S3:
		endpoint := p.Options["endpoint"]
		if endpoint == "" {
			endpoint = "s3.amazonaws.com"
		}
		return s3.New(ctx, &s3.Options{
			BucketName: p.Host, Prefix: prefix(p.Path), Endpoint: endpoint, Region: p.Options["region"], DoNotUseTLS: insecure, DoNotVerifyTLS: skip,
			AccessKeyID: secret[backup.SecretAccessKey], SecretAccessKey: secret[backup.SecretSecretKey], SessionToken: secret[backup.SecretSessionToken],
		}, create)
	case backup.SFTP:
		host, port := p.Host, 22
		if h, n, err := net.SplitHostPort(p.Host); err == nil {
			host = h
			if port, err = strconv.Atoi(n); err != nil {
				return nil, fault.New(errdefs.ErrInvalidArgument, "repository %s: port %q", a.Name, n)
			}
		}
		return sftp.New(ctx, &sftp.Options{
			Path: p.Path, Host: host, Port: port, Username: p.User, Password: secret[backup.SecretSSHPassword],
			KeyData: secret[backup.SecretSSHKey], KnownHostsData: secret[backup.SecretKnownHosts],
		}, create)
	case backup.Azure:
		container, sub, _ := strings.Cut(p.Path, "/")
		return azure.New(ctx, &azure.Options{
			Container: container, Prefix: prefix(sub), StorageAccount: p.Host, StorageKey: secret[backup.SecretAccountKey],
			SASToken: secret[backup.SecretSAS], StorageDomain: p.Options["domain"], DoNotUseTLS: insecure,
		}, create)
	case backup.GCS:
		return gcs.New(ctx, &gcs.Options{
			BucketName: p.Host, Prefix: prefix(p.Path), ServiceAccountCredentialJSON: json.RawMessage(secret[backup.SecretCredentials]),
		}, create)
	}
	return nil, fault.New(errdefs.ErrInvalidArgument, "repository %s: unknown kind %q", a.Name, p.Kind)
}

func configFile(a backup.Access) string { return filepath.Join(a.Dir, "kopia.config") }

// Prepare implements backup.Engine.
func (e *Engine) Prepare(ctx context.Context, a backup.Access) (made bool, err error) {
	defer func() { err = e.plain(a, err) }()
	sctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	st, err := storage(sctx, a, true)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, st.Close(context.WithoutCancel(ctx))) }()
	err = repo.Initialize(sctx, st, &repo.NewRepositoryOptions{}, a.Secrets[backup.SecretPassword])
	if err != nil && !errors.Is(err, repo.ErrAlreadyInitialized) {
		return false, err
	}
	made = err == nil
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return false, err
	}
	info := st.ConnectionInfo()
	lc := repo.LocalConfig{
		Storage:       &info,
		ClientOptions: repo.ClientOptions{Hostname: a.Host, Username: username, Description: a.Name, FormatBlobCacheDuration: -1},
	}
	if a.Place.Kind != backup.Files {
		lc.Caching = &content.CachingOptions{CacheDirectory: filepath.Join(a.Dir, "cache"), ContentCacheSizeBytes: 1 << 20, MetadataCacheSizeBytes: metadataCache}
	}
	b, err := json.Marshal(lc)
	if err != nil {
		return false, err
	}
	if err := atomicfile.Write(configFile(a), b, 0o600); err != nil { // the secrets of the place are in it
		return false, err
	}
	rep, err := e.open(ctx, a)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rep.Close(context.WithoutCancel(ctx))) }()
	if !made {
		return false, nil
	}
	return true, repo.WriteSession(ctx, rep, repo.WriteSessionOptions{Purpose: "prepare"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		p := maintenance.DefaultParams()
		p.Owner = rep.ClientOptions().UsernameAtHost()
		return maintenance.SetParams(ctx, w, &p)
	})
}

// open opens a repository that Prepare has seen.
func (e *Engine) open(ctx context.Context, a backup.Access) (repo.DirectRepository, error) {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	fatal := func(err error) { e.fatal.CompareAndSwap(nil, &err) } // kopia would end the process
	r, err := repo.Open(ctx, configFile(a), a.Secrets[backup.SecretPassword], &repo.Options{OnFatalError: fatal, DisableRepositoryLog: true, DoNotWaitForUpgrade: true, TimeNowFunc: e.Now})
	if err != nil {
		return nil, err
	}
	d, ok := r.(repo.DirectRepository)
	if !ok {
		return nil, errors.Join(errors.New("the repository is behind a server, which is not supported"), r.Close(ctx))
	}
	return d, nil
}

// plain says in words what is wrong with a repository, and shows no secret.
func (e *Engine) plain(a backup.Access, err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for name, s := range a.Secrets {
		if len(s) >= 4 {
			text = strings.ReplaceAll(text, s, "<"+name+">")
		}
	}
	at := fmt.Sprintf("repository %s (%s)", a.Name, a.Place.URL)
	var class error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case isClassed(err):
		class, at = errdefs.Resolve(err), ""
	case errors.Is(err, repo.ErrInvalidPassword):
		return fault.New(errdefs.ErrPermissionDenied, "%s: the password is not the one it was made with", at)
	case errors.Is(err, repo.ErrRepositoryNotInitialized), strings.Contains(text, "repository not initialized"):
		return fault.New(errdefs.ErrNotFound, "%s: there is no repository (any more)", at)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), strings.Contains(text, "no space left on device"), strings.Contains(text, "disk quota exceeded"):
		return fault.New(errdefs.ErrResourceExhausted, "%s is full: %s", at, text)
	case strings.Contains(text, "QuotaExceeded"), strings.Contains(text, "InsufficientStorage"):
		return fault.New(errdefs.ErrResourceExhausted, "%s is full: %s", at, text)
	case errors.Is(err, blob.ErrInvalidCredentials), refused(text):
		class, at = errdefs.ErrPermissionDenied, at+" does not let us in"
	case errors.Is(err, context.DeadlineExceeded), unreachable(err), errors.Is(err, os.ErrNotExist), strings.Contains(text, "connection refused"), strings.Contains(text, "no such host"):
		class, at = errdefs.ErrUnavailable, at+" cannot be reached"
	default:
		class = errdefs.ErrInternal
	}
	if at != "" {
		text = at + ": " + text
	}
	return fault.New(class, "%s", text)
}

// refused tells of answers of object stores that kopia hands on as they are.
func refused(text string) bool {
	for _, code := range []string{"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Access Denied", "AuthorizationFailure", "AuthenticationFailed", "unable to authenticate"} {
		if strings.Contains(text, code) {
			return true
		}
	}
	return false
}

func unreachable(err error) bool {
	var n net.Error
	var o *net.OpError
	return errors.As(err, &n) || errors.As(err, &o)
}

// isClassed tells of an error that already says what it is.
func isClassed(err error) bool {
	for _, c := range []error{
		errdefs.ErrDataLoss, errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrUnavailable, errdefs.ErrNotImplemented, errdefs.ErrConflict,
	} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}
