package build

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
)

// Request is one build by the classic endpoint. The zero value of a field is
// Docker's default.
type Request struct {
	ID         string   // to cancel it by; may be empty
	Tags       []string // names as the user wrote them
	Remote     string   // URL of the context; empty: the request's body is a tar file
	Dockerfile string   // path in the context
	Target     string
	Args       map[string]*string // nil value: not given, the Dockerfile's default stays
	Labels     map[string]string
	CacheFrom  []string
	ExtraHosts []string // host:address
	Network    string   // "", default, host or none
	Platform   string
	ShmSize    int64 // bytes
	Ulimits    []*container.Ulimit
	NoCache    bool
	Pull       bool // look for newer base images
	Auth       map[string]registry.AuthConfig

	// Session is where the context and credentials come from instead, for clients
	// that speak BuildKit's session protocol but not its control service.
	Session string
	Outputs []Output // with Session only; empty: the engine's image list
}

// UploadRequest is the Remote of a build in a session whose context comes by a
// request of its own, with the same ID.
const UploadRequest = "upload-request"

// Output is where the result of a build goes.
type Output struct {
	Type  string
	Attrs map[string]string
}

// CacheRecord is a piece of the build cache.
type CacheRecord struct {
	ID          string
	Parents     []string
	Type        string
	Description string
	InUse       bool
	Shared      bool // with an image: it takes no place of its own
	OfImage     bool // a layer of an image, shared or on the disk once more
	Size        int64
	CreatedAt   time.Time
	LastUsedAt  *time.Time
	UsageCount  int
}

// PruneOptions say what of the cache may go.
type PruneOptions struct {
	All      bool
	Nothing  bool          // the filters match nothing
	Filters  []string      // in BuildKit's form: "type==exec.cachemount", "id~=abc"
	UnusedIn time.Duration // only what was not used for that long
	Reserved int64         // bytes to leave in any case
	MaxUsed  int64         // bytes to get below; 0: no limit
	MinFree  int64         // bytes of the disk to leave free; 0: no limit
}
