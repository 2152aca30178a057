package api

// PathCheck tries what a volume or a directory of the daemon's machine gives a
// database: POST, CheckRequest, CheckReport.
const PathCheck = Prefix + "/check"

// CheckRequest names what to try: a volume, or an absolute path.
type CheckRequest struct {
	Volume string   `json:"volume,omitempty"`
	Path   string   `json:"path,omitempty"`
	For    []string `json:"for,omitempty"` // databases to judge it for; empty: all that are known
}

// CheckReport is what was found.
type CheckReport struct {
	Path       string         `json:"path"`
	FSType     string         `json:"fsType"`
	InMemory   bool           `json:"inMemory"`
	FreeBytes  uint64         `json:"freeBytes"`
	FreeInodes uint64         `json:"freeInodes"`
	FsyncNanos int64          `json:"fsyncNanos"` // median time of a small durable write; 0: not measured
	TookNanos  int64          `json:"tookNanos"`
	Probes     []CheckProbe   `json:"probes"`
	Verdicts   []CheckVerdict `json:"verdicts"`
}

// CheckProbe is one thing tried.
type CheckProbe struct {
	Name   string `json:"name"`
	Result string `json:"result"` // pass, fail, unknown
	Detail string `json:"detail,omitempty"`
}

// CheckVerdict is what the findings mean for one database.
type CheckVerdict struct {
	For   string `json:"for"`
	Level string `json:"level"` // safe, slow, warn, unsafe
	Text  string `json:"text"`
}
