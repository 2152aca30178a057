package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/ca"
)

// Identity is this node's certificate and the authority of its swarm, as SwarmKit
// keeps and renews them on disk.
type Identity struct {
	paths *ca.SecurityConfigPaths
	// unlock is the key that the private key is locked with; empty for none.
	unlock func(ctx context.Context) ([]byte, error)

	mu    sync.Mutex // guards the fields below; held while the files are read
	stamp [3]time.Time
	have  *credentials
}

// credentials are what the files held at one time.
type credentials struct {
	cert    tls.Certificate
	roots   *x509.CertPool
	id, org string
}

// NewIdentity reads what SwarmKit keeps in dir.
func NewIdentity(dir string, unlock func(ctx context.Context) ([]byte, error)) *Identity {
	return &Identity{paths: ca.NewConfigPaths(dir), unlock: unlock}
}

// load returns the credentials; files that did not change are not read again.
func (i *Identity) load(ctx context.Context) (*credentials, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var stamp [3]time.Time
	for k, f := range []string{i.paths.Node.Cert, i.paths.Node.Key, i.paths.RootCA.Cert} {
		st, err := os.Stat(f)
		if err != nil {
			return nil, fmt.Errorf("read this node's certificate: %w", err)
		}
		stamp[k] = st.ModTime()
	}
	if i.have != nil && stamp == i.stamp {
		return i.have, nil
	}
	c, err := i.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read this node's certificate: %w", err)
	}
	i.have, i.stamp = c, stamp
	return c, nil
}

func (i *Identity) read(ctx context.Context) (*credentials, error) {
	cert, key, err := ca.NewKeyReadWriter(i.paths.Node, nil, nil).Read()
	var locked ca.ErrInvalidKEK
	if errors.As(err, &locked) {
		var unlock []byte
		if unlock, err = i.unlock(ctx); err != nil {
			return nil, err
		}
		cert, key, err = ca.NewKeyReadWriter(i.paths.Node, unlock, nil).Read()
	}
	if err != nil {
		return nil, err
	}
	out := &credentials{roots: x509.NewCertPool()}
	if out.cert, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, err
	}
	leaf := out.cert.Leaf
	if len(leaf.Subject.Organization) != 1 {
		return nil, errors.New("it names no swarm")
	}
	out.id, out.org = leaf.Subject.CommonName, leaf.Subject.Organization[0]
	roots, err := os.ReadFile(i.paths.RootCA.Cert)
	if err != nil {
		return nil, err
	}
	if !out.roots.AppendCertsFromPEM(roots) {
		return nil, errors.New("the swarm's authority has no certificate")
	}
	return out, nil
}

// check tells which node is at the other end of a connection, if it is one of
// this swarm.
func (c *credentials) check(st tls.ConnectionState, usage x509.ExtKeyUsage) (string, error) {
	if len(st.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	leaf := st.PeerCertificates[0]
	o := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, i := range st.PeerCertificates[1:] {
		o.Intermediates.AddCert(i)
	}
	if _, err := leaf.Verify(o); err != nil {
		return "", err
	}
	if len(leaf.Subject.Organization) != 1 || leaf.Subject.Organization[0] != c.org {
		return "", errors.New("its certificate is of another swarm")
	}
	if len(leaf.Subject.OrganizationalUnit) != 1 || leaf.Subject.OrganizationalUnit[0] != ca.ManagerRole && leaf.Subject.OrganizationalUnit[0] != ca.WorkerRole {
		return "", errors.New("its certificate is not a node's")
	}
	if leaf.Subject.CommonName == "" {
		return "", errors.New("its certificate names no node")
	}
	return leaf.Subject.CommonName, nil
}

// server is the configuration for a listener. allow has the last word about a
// node whose certificate is right.
func (i *Identity) server(allow func(ctx context.Context, node string) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			ctx := hello.Context()
			c, err := i.load(ctx)
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{c.cert},
				ClientAuth:   tls.RequireAnyClientCert, // verified here, against today's authority
				// A connection that goes on from an earlier one would not be asked again.
				SessionTicketsDisabled: true,
				VerifyConnection: func(st tls.ConnectionState) error {
					node, err := c.check(st, x509.ExtKeyUsageClientAuth)
					if err != nil {
						return err
					}
					return allow(ctx, node)
				},
			}, nil
		},
	}
}

// client is the configuration for connections to one node.
func (i *Identity) client(node string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := i.load(r.Context())
			if err != nil {
				return nil, err
			}
			return &c.cert, nil
		},
		InsecureSkipVerify: true, // VerifyConnection does it, against today's authority
		VerifyConnection: func(st tls.ConnectionState) error {
			c, err := i.load(context.Background())
			if err != nil {
				return err
			}
			got, err := c.check(st, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if got != node {
				return fmt.Errorf("node %s answers in the place of %s", got, node)
			}
			return nil
		},
	}
}
