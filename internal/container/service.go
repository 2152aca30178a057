package container

import (
	"log/slog"
	"sync"

	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/clock"
)

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Records  Records
	Events   Publisher
	Images   Images
	Rootfs   Rootfs
	Runtime  Runtime
	Volumes  Volumes
	Networks Networks
	Settings Settings
}

// Settings are the daemon's own choices that containers inherit.
type Settings struct {
	Dir           string // <root>/containers: one folder per container (logs, hosts, resolv.conf)
	RunDir        string // <exec-root>/containers: run-time files, gone after a reboot
	InitPath      string // the init program bind-mounted by --init
	DefaultLog    container.LogConfig
	ShmSize       int64 // bytes
	CgroupParent  string
	CgroupVersion int // 1 or 2
	SystemdCgroup bool
	Ulimits       map[string]*container.Ulimit
	// Capabilities is the daemon's own bounding set ("CAP_CHOWN", …): privileged
	// containers get these and no more.
	Capabilities  []string
	NoNewPrivs    bool
	SeccompPath   string // "" built-in profile, "unconfined", or a file
	InitByDefault bool
}

// Service is the container domain. See service_*.go for its verbs.
type Service struct {
	d Deps

	mu     sync.Mutex            // guards byID, byName; never held across I/O
	byID   map[string]*Container // full ID
	byName map[string]string     // name without slash to ID
}

// Container is one container: its record and what lives only in memory.
type Container struct {
	op sync.Mutex // serialises lifecycle verbs; held across I/O, taken before mu

	mu  sync.Mutex // guards the fields below; never held across I/O
	rec Record
}
