package backup

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Place is where a repository is. There are no secrets in it.
type Place struct {
	Kind    Kind              `json:"kind"`
	URL     string            `json:"url"`  // as it was given
	Host    string            `json:"host"` // SFTP: host, with the port; S3 and GCS: bucket; Azure: account
	Path    string            `json:"path"` // a directory, a prefix; Azure: container/prefix
	User    string            `json:"user,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Kind is the technology of a place.
type Kind string

// Kinds of places.
const (
	Files Kind = "file"
	S3    Kind = "s3"
	SFTP  Kind = "sftp"
	Azure Kind = "azure"
	GCS   Kind = "gs"
)

// Secrets that repositories know. The password is every one's; it encrypts.
const (
	SecretPassword     = "password"
	SecretAccessKey    = "access-key"
	SecretSecretKey    = "secret-key"
	SecretSessionToken = "session-token"
	SecretSSHKey       = "ssh-key"
	SecretSSHPassword  = "ssh-password"
	SecretKnownHosts   = "known-hosts" // no secret, but a file as they are
	SecretAccountKey   = "account-key"
	SecretSAS          = "sas-token"
	SecretCredentials  = "credentials" // GCS, JSON
)

type kindOf struct {
	options []string
	secrets []string
	needs   []string // at least one of these secrets
}

func kinds() map[Kind]kindOf {
	return map[Kind]kindOf{
		Files: {},
		S3: {
			options: []string{"endpoint", "region", "insecure", "skip-verify"},
			secrets: []string{SecretAccessKey, SecretSecretKey, SecretSessionToken}, needs: []string{SecretSecretKey},
		},
		SFTP:  {secrets: []string{SecretSSHKey, SecretSSHPassword, SecretKnownHosts}, needs: []string{SecretSSHKey, SecretSSHPassword}},
		Azure: {options: []string{"domain", "insecure"}, secrets: []string{SecretAccountKey, SecretSAS}, needs: []string{SecretAccountKey, SecretSAS}},
		GCS:   {secrets: []string{SecretCredentials}, needs: []string{SecretCredentials}},
	}
}

func badPlace(format string, a ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, "repository: %s", fmt.Sprintf(format, a...))
}

// ParsePlace reads a directory's path or a URL (s3://BUCKET/PREFIX,
// sftp://USER@HOST:PORT/PATH, azure://ACCOUNT/CONTAINER/PREFIX, gs://BUCKET/PREFIX)
// and checks the options and secrets.
func ParsePlace(where string, options map[string]string, secrets []string) (Place, error) {
	p := Place{Kind: Files, URL: where, Path: filepath.Clean(where), Options: options}
	if strings.Contains(where, "://") {
		u, err := url.Parse(where)
		if err != nil {
			return Place{}, badPlace("the URL cannot be read") // the error would show a password in it
		}
		if _, secret := u.User.Password(); secret {
			return Place{}, badPlace("a password does not belong into the URL, where everybody sees it: give it as a secret")
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return Place{}, badPlace("%s: nothing may follow the path: give options as options", u.Redacted())
		}
		p.Kind, p.Host, p.User = Kind(u.Scheme), u.Host, u.User.Username()
		p.Path = strings.Trim(u.Path, "/")
		if p.Kind == Files || p.Kind == SFTP {
			p.Path = u.Path
		}
	}
	known, ok := kinds()[p.Kind]
	if !ok {
		return Place{}, badPlace("%q is of no kind that is known: a directory, s3://, sftp://, azure:// or gs://", where)
	}
	if err := p.check(); err != nil {
		return Place{}, err
	}
	for _, k := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains(known.options, k) {
			return Place{}, badPlace("%s places have no option %q (they have %q)", p.Kind, k, known.options)
		}
	}
	for _, s := range secrets {
		if s != SecretPassword && !slices.Contains(known.secrets, s) {
			return Place{}, badPlace("%s places need no secret %q (they know %q)", p.Kind, s, append([]string{SecretPassword}, known.secrets...))
		}
	}
	if !slices.Contains(secrets, SecretPassword) {
		return Place{}, badPlace("a password is needed: it encrypts what is kept there, and without it nothing can be had back")
	}
	if len(known.needs) > 0 && !slices.ContainsFunc(known.needs, func(s string) bool { return slices.Contains(secrets, s) }) {
		return Place{}, badPlace("%s places need one of the secrets %q", p.Kind, known.needs)
	}
	return p, nil
}

func (p Place) check() error {
	switch p.Kind {
	case Files:
		if p.Host != "" || !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) == "/" {
			return badPlace("%q: a directory is given by its absolute path", p.URL)
		}
	case S3, GCS:
		if p.Host == "" || p.User != "" {
			return badPlace("%q: want %s://BUCKET/PREFIX", p.URL, p.Kind)
		}
	case SFTP:
		if p.Host == "" || p.User == "" || p.Path == "" || p.Path == "/" {
			return badPlace("%q: want sftp://USER@HOST[:PORT]/PATH", p.URL)
		}
	case Azure:
		if p.Host == "" || p.User != "" || p.Path == "" {
			return badPlace("%q: want azure://ACCOUNT/CONTAINER/PREFIX", p.URL)
		}
	}
	return nil
}
