package registry

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifest is what a registry has to know of one.
type manifest struct {
	mediaType    string
	artifactType string
	annotations  map[string]string
	subject      digest.Digest
	blobs        []digest.Digest // that the repository must have
	manifests    []digest.Digest // that the repository must have
}

// Media types of Docker's, beside OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// elsewhere are layers that may be had only from where their manifest says.
var elsewhere = []string{
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

func badManifest(why string) error {
	return problem(http.StatusBadRequest, "MANIFEST_INVALID", why)
}

// parseManifest reads a manifest or index that somebody sent.
func parseManifest(mediaType string, body []byte) (manifest, error) {
	var doc struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		ArtifactType  string               `json:"artifactType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		Subject       *ocispec.Descriptor  `json:"subject"`
		Annotations   map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return manifest{}, badManifest("the manifest is not JSON")
	}
	if mediaType == "" || mediaType == "application/json" {
		mediaType = doc.MediaType
	}
	if doc.MediaType != "" && doc.MediaType != mediaType {
		return manifest{}, badManifest("the manifest says that it is something else than the request does")
	}
	m := manifest{mediaType: mediaType, artifactType: doc.ArtifactType, annotations: doc.Annotations}
	var all []ocispec.Descriptor
	switch mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		if doc.Config == nil {
			return m, badManifest("the manifest has no config")
		}
		if m.artifactType == "" {
			m.artifactType = doc.Config.MediaType
		}
		all = append([]ocispec.Descriptor{*doc.Config}, doc.Layers...)
	case ocispec.MediaTypeImageIndex, dockerList:
		all = doc.Manifests
	default:
		return m, badManifest("manifests of this media type are not taken")
	}
	if doc.SchemaVersion != 2 {
		return m, badManifest("the manifest's schema version is not 2")
	}
	if doc.Subject != nil {
		all = append(all, *doc.Subject)
	}
	for _, d := range all {
		if d.Digest.Validate() != nil {
			return m, badManifest("the manifest names an invalid digest")
		}
	}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest
		all = all[:len(all)-1]
	}
	for _, d := range all {
		switch {
		case mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList:
			m.manifests = append(m.manifests, d.Digest)
		case !slices.Contains(elsewhere, d.MediaType):
			m.blobs = append(m.blobs, d.Digest)
		}
	}
	return m, nil
}
