package member

// Where a member's container has what belongs to it, and what its environment says.
const (
	Program  = "/.holdfast/member" // the helper
	StateDir = "/.holdfast/state"  // beside the volume: outlives the container
	RunDir   = "/.holdfast/run"    // shared with the agent
	Socket   = "helper.sock"       // in RunDir

	EnvMember = "HOLDFAST_MEMBER"
	EnvPort   = "HOLDFAST_PORT"
	EnvSet    = "HOLDFAST_SET"
)
