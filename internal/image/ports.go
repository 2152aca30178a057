package image

import (
	"context"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// User is a container that uses an image.
type User struct {
	ID       string
	ImageID  string        // what its image's name pointed to when it was made
	Image    string        // the name it was made with
	Manifest digest.Digest // platform manifest, empty where unknown
	Running  bool
}

// Users tells which containers use which images.
type Users interface {
	Users(ctx context.Context) []User
}

// Record is one name for an image. The name is a full reference
// ("docker.io/library/busybox:latest") or, for an image without one, its
// dangling name.
type Record struct {
	Name    string
	Target  ocispec.Descriptor // manifest or index
	Labels  map[string]string
	Created time.Time
	Updated time.Time
}

// Records are the names. A record keeps everything below its target from
// being collected.
type Records interface {
	List(ctx context.Context) ([]Record, error)
	// Get is errdefs.ErrNotFound for an unknown name.
	Get(ctx context.Context, name string) (Record, error)
	// Put makes the name point to the target, in one step, whether or not it existed.
	Put(ctx context.Context, r Record) error
	// Delete forgets the names. With wait it returns when what nobody refers to
	// any more is gone from the disk. Unknown names are no error.
	Delete(ctx context.Context, wait bool, names ...string) error
}

// Kind says what a manifest describes.
type Kind int

// Kinds of manifests.
const (
	KindUnknown Kind = iota
	KindImage
	KindAttestation
)

// Manifest is one manifest below an image's target, as far as its content is here.
type Manifest struct {
	Descriptor ocispec.Descriptor
	Kind       Kind
	Complete   bool // all its content is here
	Platform   ocispec.Platform
	Config     dockerspec.DockerOCIImage // zero where missing
	Layers     []ocispec.Descriptor
	Content    []ocispec.Descriptor // what is here, the manifest itself included
	For        digest.Digest        // KindAttestation: the manifest it speaks of
}

// Layer is a layer whose content is stored and, if it could be done while
// reading, unpacked.
type Layer struct {
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
	Size       int64 // of the uncompressed stream
	Staged     any   // the port's own note of having unpacked it already; may be nil
}

// Layers are the unpacked layers. Snapshots are named by chain ID.
type Layers interface {
	// Unpack makes the snapshots of the manifest's layers, as far as they are
	// missing. Idempotent; cheap when there is nothing to do.
	Unpack(ctx context.Context, m Manifest) error
	// Unpacked says whether Unpack would have nothing to do.
	Unpacked(ctx context.Context, m Manifest) (bool, error)
	// HasLayer says whether the chain is unpacked.
	HasLayer(ctx context.Context, chainID digest.Digest) (bool, error)
	// Sizes returns the bytes of each layer's snapshot, bottom first; 0 for one
	// that is not unpacked.
	Sizes(ctx context.Context, diffIDs []digest.Digest) ([]int64, error)
	// Dirs tells the directories of an unpacked chain, top first.
	Dirs(ctx context.Context, chainID digest.Digest) ([]string, error)
	// Read stores a layer from a tar stream, compressed or not.
	Read(ctx context.Context, r io.Reader) (Layer, error)
	// Diff stores what a container's writable layer changed over its parent;
	// ok is false if nothing.
	Diff(ctx context.Context, container string) (l Layer, ok bool, err error)
	// Driver is the storage driver's name.
	Driver() string
}

// Content is what images are made of.
type Content interface {
	// Hold keeps everything made with the returned context from being collected
	// until release is called; what no record refers to by then goes, at once if
	// discard is set.
	Hold(ctx context.Context) (held context.Context, release func(discard bool), err error)
	// Manifests walks the target. Cheap for complete images: answers are kept.
	Manifests(ctx context.Context, target ocispec.Descriptor) ([]Manifest, error)
	// Write stores config and manifest of a new image, unpacks it and returns
	// the manifest's descriptor. Layers lists all its layers, bottom first.
	Write(ctx context.Context, config dockerspec.DockerOCIImage, layers []Layer) (ocispec.Descriptor, error)
	// Layer reads a layer's archive, uncompressed, and tells how much of the stored
	// one has been read. What is wrong with it is errdefs.ErrInvalidArgument.
	Layer(ctx context.Context, d ocispec.Descriptor, told func(read int64)) (io.ReadCloser, error)
	// Has says whether a blob is here.
	Has(ctx context.Context, d digest.Digest) (bool, error)
	// Drop removes one manifest; what it alone refers to goes with the next
	// collection. errdefs.ErrNotFound where it is not here.
	Drop(ctx context.Context, d digest.Digest) error
	// Blob returns a small blob. errdefs.ErrNotFound where it is not here.
	Blob(ctx context.Context, d ocispec.Descriptor) ([]byte, error)
	// Receive fetches the target for a platform from a source that is no registry
	// and unpacks it. The content is held by the context's lease.
	Receive(ctx context.Context, target ocispec.Descriptor, platform ocispec.Platform, src Source, p Progress) error
	// FromRegistry says whether a registry has it too: it was pulled or pushed.
	FromRegistry(ctx context.Context, d digest.Digest) (bool, error)
}

// Source gives parts of an image. What it gives is checked by whoever reads it.
type Source interface {
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Progress is told how a transfer goes. Implementations are safe for
// concurrent use and never block for long.
type Progress interface {
	// Message is a line of its own.
	Message(id, text string)
	// Update replaces the line of id. Total 0: no bar.
	Update(id, action string, current, total int64)
	// Aux passes machine-readable extra data.
	Aux(v any)
}

// Loaded is an image found in an archive; its content is stored and held by
// the context's lease.
type Loaded struct {
	Names  []string // as the archive has them, normalised; may be empty
	Target ocispec.Descriptor
}

// Export is an image to save: a target with the names to give it, if any.
type Export struct {
	Target ocispec.Descriptor
	Names  []string
}

// Archives reads and writes image archives (docker save format and OCI layout).
type Archives interface {
	Load(ctx context.Context, r io.Reader, platforms []ocispec.Platform, p Progress) ([]Loaded, error)
	Save(ctx context.Context, w io.Writer, images []Export, platforms []ocispec.Platform) error
}

// Auth is what a client sent to log in to a registry with.
type Auth = registry.AuthConfig

// Remote describes an access to a registry.
type Remote struct {
	Auth    Auth
	Headers map[string][]string // extra request headers (X-Meta-…)
}

// Registry talks to image registries. Errors carry the registry's own text.
type Registry interface {
	// Resolve returns the descriptor that a reference points to.
	Resolve(ctx context.Context, ref string, r Remote) (ocispec.Descriptor, error)
	// Pull fetches the target for a platform and unpacks it. The content is held
	// by the context's lease.
	Pull(ctx context.Context, ref string, target ocispec.Descriptor, platform ocispec.Platform, r Remote, p Progress) error
	Push(ctx context.Context, ref string, target ocispec.Descriptor, r Remote, p Progress) error
	// Tags lists a repository's tags.
	Tags(ctx context.Context, repository string, r Remote) ([]string, error)
	// Fetch reads a small blob or manifest.
	Fetch(ctx context.Context, ref string, d ocispec.Descriptor, r Remote) ([]byte, error)
	// Search asks an index which repositories it has, by the old search of v1.
	Search(ctx context.Context, index, term string, limit int, r Remote) ([]registry.SearchResult, error)
	// Login checks credentials and returns an identity token where the registry gives one.
	Login(ctx context.Context, a Auth) (token string, err error)
}
