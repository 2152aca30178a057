package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful"
)

// begin takes do for a verb of an epoch, after ending what is under way, and
// refuses one that is older than what was promised.
func (s *Server) begin(epoch uint64) (end func(), err error) {
	s.interrupt()
	s.do.Lock()
	if epoch < s.kept.Promised {
		promised := s.kept.Promised
		s.do.Unlock()
		return nil, fmt.Errorf("epoch %d is over: %d is promised", epoch, promised)
	}
	return s.do.Unlock, nil
}

// interrupt ends a clone or a promotion that is under way.
func (s *Server) interrupt() {
	s.job.Lock()
	defer s.job.Unlock()
	if s.job.cancel != nil {
		s.job.cancel()
	}
}

// later runs f beside everything else, holding do, until it is done or interrupted.
func (s *Server) later(f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	s.job.Lock()
	s.job.cancel = cancel
	s.job.Unlock()
	go func() {
		defer cancel()
		defer s.do.Unlock()
		defer s.publish()
		s.problem(f(ctx))
	}()
}

// promise keeps an epoch. Called with do held.
func (s *Server) promise(epoch uint64) error {
	if epoch <= s.kept.Promised {
		return nil
	}
	s.kept.Promised = epoch
	if err := s.save(); err != nil {
		return err
	}
	s.publish()
	return nil
}

// Promise implements stateful.Helper.
func (s *Server) Promise(ctx context.Context, epoch uint64) (stateful.State, error) {
	// A question that comes late, or twice, stops nobody whom its answer made leader,
	// nor who follows that one.
	s.mu.Lock()
	begun := s.lease.epoch == epoch || s.st.Epoch == epoch
	s.mu.Unlock()
	if begun {
		return s.told(fmt.Errorf("epoch %d has begun", epoch))
	}
	end, err := s.begin(epoch)
	if err != nil {
		return s.told(err)
	}
	defer end()
	if err := s.held(epoch); err != nil {
		return s.told(err)
	}
	if err := s.promise(epoch); err != nil {
		return s.told(err)
	}
	if !s.kept.Whole {
		return s.told(nil)
	}
	if err := s.rest(ctx, epoch); err != nil {
		return s.told(err)
	}
	return s.told(nil)
}

func (s *Server) told(err error) (stateful.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st, err
}

// rest has the server read nobody's log, and returns when all of its own is read.
// Called with do held.
func (s *Server) rest(ctx context.Context, epoch uint64) error {
	s.mu.Lock()
	leads, phase := s.lease.epoch, s.st.Phase
	s.mu.Unlock()
	if leads > 0 && leads < epoch || leads == 0 && (phase == stateful.Leading || phase == stateful.Promoting) {
		s.kill()
		s.waitEnd()
	}
	if s.set.upstream != nil {
		s.set.upstream = nil
		if err := s.reload(); err != nil {
			return err
		}
	}
	if !s.running() {
		if err := s.start(); err != nil {
			return err
		}
	}
	s.phase(stateful.Resting, 0)
	var last uint64
	var since time.Time
	for {
		l, err := s.look(ctx)
		if err == nil && !l.recovering {
			return errors.New("the server takes writes and nobody told it to")
		}
		if err == nil && l.receiver == "" && l.waits {
			if l.replayed != last {
				last, since = l.replayed, time.Now()
			}
			// What was received and cannot be read is half a record at the end; then two
			// reads of the log must have come to the same end.
			if l.replayed >= l.received || time.Since(since) > 300*time.Millisecond {
				s.mu.Lock()
				s.st.Position = s.kept.Chain.Position(s.timeline(), l.replayed)
				s.st.Problem = ""
				s.mu.Unlock()
				return nil
			}
		}
		if !s.running() {
			return errors.New("the server ended while it read its log")
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the server has not read its log yet: %w", err)
		}
	}
}

func (s *Server) waitEnd() {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd != nil {
		<-ended
	}
}

// reload has the server read its settings. Called with do held.
func (s *Server) reload() error {
	if err := s.writeConf(s.set); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGHUP) // it may have ended; it reads them when it starts
	}
	return nil
}

// Follow implements stateful.Helper.
func (s *Server) Follow(ctx context.Context, f stateful.Follow) error {
	s.mu.Lock()
	same := s.st.Epoch == f.Epoch && (s.st.Phase == stateful.Following || s.st.Phase == stateful.Cloning)
	s.mu.Unlock()
	if same {
		return nil
	}
	end, err := s.begin(f.Epoch)
	if err != nil {
		return err
	}
	if err := s.promise(f.Epoch); err != nil {
		end()
		return err
	}
	if s.kept.Whole {
		if err := s.rest(ctx, f.Epoch); err != nil {
			end()
			return err
		}
		s.mu.Lock()
		at := s.st.Position
		s.mu.Unlock()
		if f.Chain.Leads(at) {
			defer end()
			return s.stream(f)
		}
		if !f.MayDiscard {
			end()
			return fmt.Errorf("the data end at %+v, which the leader's history does not have", at)
		}
		s.c.Log.Warn("data have what the leader's have not: they are cloned anew", logkey.Epoch, at.Timeline, logkey.Text, fmt.Sprintf("ends at %d", at.LSN))
	}
	s.phase(stateful.Cloning, f.Epoch)
	s.later(func(ctx context.Context) error { return s.clone(ctx, f) }) //nolint:contextcheck // it outlives the request
	return nil
}

// stream has the server read the leader's log. The history is kept first: what
// is received from then on is acknowledged as of this epoch. Called with do held.
func (s *Server) stream(f stateful.Follow) error {
	s.kept.Chain = f.Chain
	if err := s.save(); err != nil {
		return err
	}
	s.publish()
	s.set.upstream = &f
	s.set.ack = stateful.Ack{}
	if err := s.reload(); err != nil {
		return err
	}
	s.phase(stateful.Following, f.Epoch)
	if !s.running() {
		return s.start()
	}
	return nil
}

// clone fetches the leader's data in place of its own. Called with do held.
func (s *Server) clone(ctx context.Context, f stateful.Follow) error {
	fail := func(err error) error {
		s.phase(stateful.Empty, 0) // asked for again
		return err
	}
	s.stop(syscall.SIGQUIT, killLimit)
	s.kept.Whole, s.kept.Chain, s.kept.Mark = false, nil, newMark()
	if err := s.save(); err != nil {
		return fail(err)
	}
	if err := s.clear(); err != nil {
		return fail(err)
	}
	s.phase(stateful.Cloning, f.Epoch)
	cmd := s.command(ctx, "pg_basebackup", "-D", s.c.Data, "-d", conninfo(&f, s.identity()+"@clone"), "--checkpoint=fast", "--wal-method=stream",
		"--slot="+slotName(s.c.Member), "--no-password")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("clone %s: %w: %s", f.Host, err, strings.TrimSpace(string(out))))
	}
	for _, name := range []string{markFile, "standby.signal"} {
		if err := os.Remove(filepath.Join(s.c.Data, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fail(err)
		}
	}
	s.kept.Whole = true
	return s.stream(f)
}

// Discard implements stateful.Helper. The promise stays.
func (s *Server) Discard(_ context.Context, epoch uint64) error {
	end, err := s.begin(epoch)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	leads := s.lease.epoch > 0
	s.mu.Unlock()
	if leads {
		return fmt.Errorf("%s leads", s.c.Member)
	}
	s.stop(syscall.SIGQUIT, killLimit)
	s.set.upstream = nil
	s.kept.Whole, s.kept.Chain, s.kept.Mark = false, nil, newMark()
	if err := s.save(); err != nil {
		return err
	}
	s.phase(stateful.Empty, 0)
	s.publish()
	return s.clear()
}

// clear empties the data's folder, which may be a mount.
func (s *Server) clear() error {
	if err := os.MkdirAll(s.c.Data, 0o700); err != nil {
		return err
	}
	all, err := os.ReadDir(s.c.Data)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.c.Data, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Chmod(s.c.Data, 0o700); err != nil {
		return err
	}
	return s.own(s.c.Data)
}

// Lead implements stateful.Helper.
func (s *Server) Lead(_ context.Context, o stateful.Lead) error {
	s.mu.Lock()
	leads := s.lease.epoch
	s.mu.Unlock()
	if leads == o.Epoch {
		return nil
	}
	end, err := s.begin(o.Epoch)
	if err != nil {
		return err
	}
	switch {
	case s.kept.Led >= o.Epoch:
		end()
		return fmt.Errorf("epoch %d was led and has ended", o.Epoch)
	case !s.kept.Whole && !o.First:
		end()
		return errors.New("there are no data to lead with")
	}
	if err := s.promise(o.Epoch); err != nil {
		end()
		return err
	}
	s.kept.Led = o.Epoch
	if err := s.save(); err != nil {
		end()
		return err
	}
	s.mu.Lock()
	s.lease = lease{epoch: o.Epoch, until: o.Until, stop: o.Stop}
	s.st.Ack, s.mark = o.Ack, 0
	s.mu.Unlock()
	s.wakeWatch()
	s.publish()
	s.phase(stateful.Promoting, o.Epoch)
	s.later(func(ctx context.Context) error { //nolint:contextcheck // it outlives the request
		err := s.lead(ctx, o)
		if err != nil {
			s.kill() // half a leader is none
			s.waitEnd()
			s.drop(o.Epoch)
			s.phase(stateful.Stopped, 0)
		}
		return err
	})
	return nil
}

func (s *Server) wakeWatch() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lead makes the server take writes. Called with do held.
func (s *Server) lead(ctx context.Context, o stateful.Lead) error {
	fresh := !s.kept.Whole
	if fresh {
		if err := s.initdb(ctx); err != nil {
			return err
		}
	}
	// The settings are in force before the first commit can be.
	s.set = settings{ack: o.Ack, ackEpoch: o.Epoch}
	if err := s.reload(); err != nil {
		return err
	}
	if !s.running() {
		if err := s.start(); err != nil {
			return err
		}
	}
	s.phase(stateful.Promoting, o.Epoch)
	if err := s.promoted(ctx, o.Epoch); err != nil {
		return err
	}
	line, err := s.query(ctx, "select pg_walfile_name(pg_current_wal_lsn())")
	if err != nil || len(line) != 1 || len(line[0]) < 8 {
		return fmt.Errorf("find the timeline: %v %w", line, err)
	}
	tli, err := strconv.ParseUint(line[0][:8], 16, 32)
	if err != nil {
		return fmt.Errorf("find the timeline: %w", err)
	}
	start, err := s.switchPoint(tli)
	if err != nil {
		return err
	}
	if err := s.slots(ctx, o.Peers); err != nil {
		return err
	}
	if o.First {
		if err := s.firstTime(ctx, o.Secret); err != nil {
			return err
		}
	}
	s.kept.Chain = s.kept.Chain.With(stateful.Link{Epoch: o.Epoch, Timeline: tli, Start: start})
	if err := s.save(); err != nil {
		return err
	}
	s.publish()
	s.mu.Lock()
	held := s.lease.epoch == o.Epoch && s.cmd != nil
	s.mu.Unlock()
	if !held {
		return fmt.Errorf("the lease of epoch %d ended", o.Epoch)
	}
	s.phase(stateful.Leading, o.Epoch)
	return nil
}

// promoted tells the server to take writes and waits until it does.
func (s *Server) promoted(ctx context.Context, epoch uint64) error {
	told := false
	for {
		s.mu.Lock()
		held, cmd := s.lease.epoch == epoch, s.cmd
		s.mu.Unlock()
		if !held || cmd == nil {
			return fmt.Errorf("the server ended, or the lease of epoch %d did", epoch)
		}
		lines, err := s.query(ctx, "select pg_is_in_recovery()")
		switch {
		case err == nil && len(lines) == 1 && lines[0] == "f":
			return nil
		case err == nil && !told:
			p := filepath.Join(s.c.Data, "promote")
			if err := os.WriteFile(p, nil, 0o600); err != nil { //nolint:forbidigo // empty: it is there or not
				return err
			}
			if err := s.own(p); err != nil {
				return err
			}
			if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				return fmt.Errorf("promote the server: %w", err)
			}
			told = true
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// switchPoint is where a timeline begins.
func (s *Server) switchPoint(tli uint64) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(s.c.Data, "pg_wal", fmt.Sprintf("%08X.history", tli)))
	if err != nil {
		return 0, fmt.Errorf("read the history of timeline %d: %w", tli, err)
	}
	return parseSwitchPoint(string(b))
}

func parseSwitchPoint(history string) (uint64, error) {
	var last string
	for line := range strings.Lines(history) {
		if f := strings.Fields(line); len(f) >= 2 && !strings.HasPrefix(f[0], "#") {
			last = f[1]
		}
	}
	return parseLSN(last)
}

func parseLSN(text string) (uint64, error) {
	hi, lo, ok := strings.Cut(text, "/")
	h, err := strconv.ParseUint(hi, 16, 32)
	l, lerr := strconv.ParseUint(lo, 16, 32)
	if err := errors.Join(err, lerr); err != nil || !ok {
		return 0, fmt.Errorf("%q is no place in a log: %w", text, err)
	}
	return h<<32 | l, nil
}

// slots keeps the log that followers have not had yet.
func (s *Server) slots(ctx context.Context, peers []string) error {
	for _, p := range peers {
		n := literal(slotName(p))
		if _, err := s.query(ctx, "select pg_create_physical_replication_slot("+n+", true) where not exists (select from pg_replication_slots where slot_name = "+n+")"); err != nil {
			return fmt.Errorf("keep the log for %s: %w", p, err)
		}
	}
	return nil
}

// Extend implements stateful.Helper.
func (s *Server) Extend(_ context.Context, epoch uint64, until, stop time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lease.epoch != epoch:
		return nil
	case !s.c.Now().Before(s.lease.stop):
		// It was frozen, and what was sent meanwhile comes before the watch has looked.
		return fmt.Errorf("the lease of epoch %d has ended", epoch)
	case until.After(s.lease.until):
		s.lease.until, s.lease.stop = until, stop
	}
	return nil
}

// Acknowledge implements stateful.Helper.
func (s *Server) Acknowledge(ctx context.Context, epoch uint64, a stateful.Ack) error {
	end, err := s.begin(epoch)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	leads := s.lease.epoch == epoch && s.st.Phase == stateful.Leading
	s.mu.Unlock()
	if !leads {
		return fmt.Errorf("epoch %d is not led", epoch)
	}
	// Who asked has not given up yet, and is told from here on that it is so: else the
	// record could be narrowed to others meanwhile.
	if err := ctx.Err(); err != nil {
		return err
	}
	show := func(a stateful.Ack) {
		s.mu.Lock()
		s.st.Ack, s.st.InForce, s.st.CaughtUp, s.mark = a, false, false, 0
		s.mu.Unlock()
	}
	show(a)
	was := s.set
	s.set.ack, s.set.ackEpoch = a, epoch
	if err := s.reload(); err != nil {
		s.set = was // the server has not heard of it
		show(was.ack)
		return err
	}
	s.c.Log.Info("acknowledgements changed", logkey.To, fmt.Sprintf("any %d of %v", a.Count, slices.Clone(a.Members)))
	return nil
}

// StepDown implements stateful.Helper.
func (s *Server) StepDown(ctx context.Context, epoch uint64, clean bool) (stateful.State, error) {
	if !clean {
		s.mu.Lock()
		leads := s.lease.epoch
		s.mu.Unlock()
		if leads > 0 && leads <= epoch {
			s.kill()
			s.drop(leads)
		}
		return s.told(nil)
	}
	end, err := s.begin(epoch)
	if err != nil {
		return s.told(err)
	}
	defer end()
	s.mu.Lock()
	leads := s.lease.epoch == epoch && s.st.Phase == stateful.Leading
	s.mu.Unlock()
	if !leads {
		return s.told(nil) // it has ended already
	}
	// Most of what a shutdown writes is written before it begins.
	if _, err := s.query(ctx, "checkpoint"); err != nil {
		return s.told(err)
	}
	s.stop(syscall.SIGINT, stopLimit)
	return s.told(nil)
}
