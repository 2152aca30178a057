// Package client is the Go client of what Holdfast offers beyond Docker's API.
// It stands beside github.com/moby/moby/client and uses its connection:
//
//	docker, err := mobyclient.New(mobyclient.FromEnv)
//	…
//	hf := client.New(docker.Dialer())
//	old, err := hf.OutdatedImages(ctx)
package client
