package daemon

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/database"
	"holdfast.dev/holdfast/internal/volume/quiesce"
)

// quieter fills volume.Quiescer. Volumes start before containers, so that the
// conductor is looked up late.
type quieter struct{ d *Daemon }

// Quiesce implements volume.Quiescer.
func (q quieter) Quiesce(ctx context.Context, r volume.QuietRequest) (volume.Quiet, error) {
	if q.d.quiet == nil {
		return volume.Quiet{}, fault.New(errdefs.ErrUnavailable, "the daemon is starting")
	}
	got, err := q.d.quiet.Quiesce(ctx, quiesce.Request(r))
	if err != nil {
		return volume.Quiet{}, err
	}
	return volume.Quiet{
		Application: got.Application, Hooks: got.Hooks, Failed: got.Failed,
		Resume: func(ctx context.Context) volume.Resumed { return volume.Resumed(got.Resume(ctx)) },
	}, nil
}

// startQuiesce has containers go on that an earlier daemon had hold still.
func (d *Daemon) startQuiesce(ctx context.Context) {
	d.quiet = quiesce.New(quiesce.Deps{
		Clock: d.clock, Random: rand.Reader, Log: d.log,
		Records:    store.NewCollection[quiesce.Record](d.db, "quiet-times"),
		Containers: quietContainers{d.containers},
	})
	d.supervise(ctx, "containers that were held", d.quiet.Settle)
}

// quietContainers fills quiesce.Containers.
type quietContainers struct{ s *container.Service }

func databaseFacts(u container.VolumeUser) database.Facts {
	return database.Facts{Image: u.Image, Command: u.Command, Env: u.Env, Ports: u.Ports}
}

// Writers implements quiesce.Containers.
func (q quietContainers) Writers(volumes []string) []quiesce.Writer {
	var out []quiesce.Writer
	for _, u := range q.s.VolumeUsers() {
		if !u.Running {
			continue
		}
		w := quiesce.Writer{ID: u.ID, Name: u.Name, Paused: u.Paused, Labels: u.Labels, Facts: databaseFacts(u)}
		for _, v := range u.Volumes {
			if !v.ReadOnly && slices.Contains(volumes, v.Name) && !slices.Contains(w.Volumes, v.Name) {
				w.Volumes = append(w.Volumes, v.Name)
			}
		}
		if len(w.Volumes) > 0 {
			out = append(out, w)
		}
	}
	return out
}

// maxHookOutput is how much of what a hook says is kept.
const maxHookOutput = 4096

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - maxHookOutput; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "�")
}

// Run implements quiesce.Containers.
func (q quietContainers) Run(ctx context.Context, id, user string, cmd []string) (string, int, error) {
	out := &tail{}
	code, err := q.s.Within(ctx, id, user, cmd, nil, out)
	return out.String(), code, err
}

// Open implements quiesce.Containers.
func (q quietContainers) Open(ctx context.Context, id, user string, cmd []string) (quiesce.Process, error) {
	// It lives until it is killed or ends, not as long as the call.
	ctx, kill := context.WithCancel(context.WithoutCancel(ctx))
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p := &hookProcess{in: inW, out: outR, kill: kill, lines: make(chan string), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.code, p.err = q.s.Within(ctx, id, user, cmd, inR, outW)
		// Nobody must wait for it any more, on either side.
		_ = outW.Close()               // always nil
		_ = inR.CloseWithError(io.EOF) // always nil
	}()
	go func() {
		defer close(p.lines)
		s := bufio.NewScanner(outR)
		s.Buffer(nil, maxHookOutput)
		for s.Scan() {
			select {
			case p.lines <- strings.ToValidUTF8(s.Text(), "�"):
			case <-ctx.Done():
				return
			}
		}
		if s.Err() != nil { // a line without end: it is no session that we know
			kill()
		}
		_ = outR.CloseWithError(errors.Join(io.ErrClosedPipe, s.Err())) // always nil
	}()
	return p, nil
}

// hookProcess fills quiesce.Process.
type hookProcess struct {
	in    *io.PipeWriter
	out   *io.PipeReader
	kill  context.CancelFunc
	lines chan string
	ended chan struct{} // closed when the fields below are set
	code  int
	err   error
}

// Write implements io.Writer.
func (p *hookProcess) Write(b []byte) (int, error) { return p.in.Write(b) }

// Line implements quiesce.Process.
func (p *hookProcess) Line(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", io.EOF
		}
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Wait implements quiesce.Process.
func (p *hookProcess) Wait(ctx context.Context) (int, error) {
	_ = p.in.Close() // always nil
	for {
		select {
		case <-p.ended:
			p.kill() // releases the context
			return p.code, p.err
		case _, ok := <-p.lines: // what it still has to say
			if !ok {
				p.lines = nil
			}
		case <-ctx.Done():
			return -1, ctx.Err()
		}
	}
}

// Kill implements quiesce.Process.
func (p *hookProcess) Kill() {
	p.kill()
	_ = p.in.Close()                           // always nil
	_ = p.out.CloseWithError(io.ErrClosedPipe) // always nil
	<-p.ended
}

// Freeze implements quiesce.Containers.
func (q quietContainers) Freeze(ctx context.Context, id string) error { return q.s.Pause(ctx, id) }

// Thaw implements quiesce.Containers.
func (q quietContainers) Thaw(ctx context.Context, id string) error { return q.s.Unpause(ctx, id) }

// composeProject is compose's label with a project's name.
const composeProject = "com.docker.compose.project"

// volumesTogether are the volumes of one container, or of the containers of a project.
func volumesTogether(s *container.Service, name, project string) ([]string, error) {
	var users []container.VolumeUser
	switch {
	case name != "" && project != "":
		return nil, fault.New(errdefs.ErrInvalidArgument, "say a container or a project, not both")
	case name != "":
		u, err := s.VolumeUser(name)
		if err != nil {
			return nil, err
		}
		users = append(users, u)
	case project != "":
		for _, u := range s.VolumeUsers() {
			if u.Labels[composeProject] == project {
				users = append(users, u)
			}
		}
		if len(users) == 0 {
			return nil, fault.New(errdefs.ErrNotFound, "no container of a project %s has volumes", project)
		}
	default:
		return nil, fault.New(errdefs.ErrInvalidArgument, "say the container or the project whose volumes are meant")
	}
	var out []string
	for _, u := range users {
		for _, v := range u.Volumes {
			if !strings.Contains(v.Name, volume.SnapshotSeparator) {
				out = append(out, v.Name)
			}
		}
	}
	if len(out) == 0 {
		return nil, fault.New(errdefs.ErrInvalidArgument, "container %s has no volumes", name)
	}
	return out, nil
}

// groups fills the volumes router's Together.
type groups struct{ d *Daemon }

// Together implements the router's interface.
func (g groups) Together(container, project string) ([]string, error) {
	return volumesTogether(g.d.containers, container, project)
}
