package container

import (
	"time"

	"github.com/moby/moby/api/types/container"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	settled      = 10 * time.Second // a run this long resets the back-off
)

// ending is what the restart decision sees of a run that ended.
type ending struct {
	policy    container.RestartPolicy
	exitCode  int
	ran       time.Duration
	restarts  int           // automatic restarts so far
	backoff   time.Duration // pause before the last automatic restart, 0 for none yet
	forbidden bool          // a stop or kill was asked for, or the daemon shuts down
}

// decideRestart says whether a container that ended is started again, and after what pause.
func decideRestart(e ending) (restart bool, pause time.Duration) {
	if e.forbidden {
		return false, 0
	}
	switch e.policy.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		restart = true
	case container.RestartPolicyOnFailure:
		limit := e.policy.MaximumRetryCount
		restart = e.exitCode != 0 && (limit == 0 || e.restarts < limit)
	default: // "no", or nothing said
	}
	if !restart {
		return false, 0
	}
	switch {
	case e.backoff == 0 || e.ran >= settled:
		pause = firstBackoff
	default:
		pause = min(e.backoff*2, lastBackoff)
	}
	return true, pause
}

// decideBoot says whether a container that does not run is started when the daemon starts.
func decideBoot(r Record) bool {
	if r.StartedAt.IsZero() {
		return false
	}
	p := r.HostConfig.RestartPolicy
	switch p.Name {
	case container.RestartPolicyAlways:
		return true
	case container.RestartPolicyUnlessStopped:
		return !r.StoppedByUser
	case container.RestartPolicyOnFailure:
		return !r.StoppedByUser && r.ExitCode != 0 && (p.MaximumRetryCount == 0 || r.RestartCount < p.MaximumRetryCount)
	default:
		return false
	}
}
