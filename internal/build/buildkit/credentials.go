package buildkit

import (
	"context"
	"strings"

	"github.com/moby/buildkit/session/auth"
	"github.com/moby/moby/api/types/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// credentials answers BuildKit's questions for registries' credentials from
// what came with a classic request.
type credentials struct {
	by map[string]registry.AuthConfig // by address, as clients send them
}

// The default registry has three names.
const (
	hubAddress  = "https://index.docker.io/v1/"
	hubRegistry = "registry-1.docker.io"
	hubDomain   = "docker.io"
)

// Register implements session.Attachable.
func (c credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// Credentials implements auth.AuthServer.
func (c credentials) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := r.GetHost()
	if host == hubRegistry || host == hubDomain {
		host = hubAddress
	}
	for addr, a := range c.by {
		if addr != host && strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(addr, "https://"), "http://"), "/") != host {
			continue
		}
		if a.IdentityToken != "" {
			return &auth.CredentialsResponse{Secret: a.IdentityToken}, nil
		}
		return &auth.CredentialsResponse{Username: a.Username, Secret: a.Password}, nil
	}
	return &auth.CredentialsResponse{}, nil
}

// FetchToken implements auth.AuthServer: BuildKit fetches tokens by itself.
func (credentials) FetchToken(context.Context, *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	return nil, status.Error(codes.Unimplemented, "tokens are fetched with the credentials")
}

// GetTokenAuthority implements auth.AuthServer.
func (credentials) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return nil, status.Error(codes.Unimplemented, "tokens are fetched with the credentials")
}

// VerifyTokenAuthority implements auth.AuthServer.
func (credentials) VerifyTokenAuthority(context.Context, *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	return nil, status.Error(codes.Unimplemented, "tokens are fetched with the credentials")
}
