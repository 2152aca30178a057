package postgres

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/holdfast/internal/stateful"
)

// look is what the server says of itself.
type look struct {
	recovering bool
	replayed   uint64 // standby: how far its log was read; leader: how far it is on disk
	received   uint64
	receiver   string // the state of the process that fetches the leader's log; "": there is none
	waits      bool   // it has read all of its log
	streams    []sender
}

// sender is one process of a leader that sends its log.
type sender struct {
	app     string
	flushed uint64
	asked   bool // commits wait for it
}

const lookSQL = `select 'self', pg_is_in_recovery(),
 case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn() - '0/0', 0) else pg_current_wal_flush_lsn() - '0/0' end,
 coalesce(pg_last_wal_receive_lsn() - '0/0', 0),
 coalesce((select coalesce(status, 'starting') from pg_stat_wal_receiver limit 1), ''),
 coalesce((select wait_event from pg_stat_activity where backend_type = 'startup'), '')
union all
select 'send', false, coalesce(flush_lsn - '0/0', 0), 0, application_name, sync_priority::text from pg_stat_replication where state = 'streaming'`

func (s *Server) look(ctx context.Context) (look, error) {
	lines, err := s.query(ctx, lookSQL)
	if err != nil {
		return look{}, err
	}
	var out look
	for _, line := range lines {
		f := strings.Split(line, "|")
		if len(f) != 6 {
			return out, fmt.Errorf("the server answers %q", line)
		}
		n, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			return out, fmt.Errorf("the server answers %q", line)
		}
		if f[0] == "send" {
			out.streams = append(out.streams, sender{app: f[4], flushed: n, asked: f[5] != "0"})
			continue
		}
		out.recovering, out.replayed, out.receiver = f[1] == "t", n, f[4]
		if out.received, err = strconv.ParseUint(f[3], 10, 64); err != nil {
			return out, fmt.Errorf("the server answers %q", line)
		}
		out.waits = f[5] == "RecoveryRetrieveRetryInterval"
	}
	return out, nil
}

// observe keeps the state that others are told up to date.
func (s *Server) observe(ctx context.Context) {
	for {
		if s.running() {
			s.observeOnce(ctx)
		}
		if sleep(ctx, observeEvery) != nil {
			return
		}
	}
}

func (s *Server) observeOnce(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	l, err := s.look(within)
	if err != nil {
		return // it starts or ends; phases tell
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if !l.recovering {
		if s.st.Phase == stateful.Leading {
			s.judge(l)
		}
		return
	}
	s.st.Position = s.st.Chain.Position(s.timeline(), l.replayed)
	if s.st.Phase == stateful.Starting {
		s.st.Phase = stateful.Resting
		if s.st.Epoch > 0 {
			s.st.Phase = stateful.Following
		}
		s.st.Problem = ""
	}
}

// judge takes a leader's look. Called with mu held.
func (s *Server) judge(l look) {
	st := &s.st
	st.Position = stateful.Position{Timeline: st.Epoch, LSN: l.replayed}
	st.Streams, st.InForce = nil, true
	caught := 0
	for _, w := range l.streams {
		id, ok := identityOf(w.app, st.Epoch)
		if asks := ok && slices.Contains(st.Ack.Members, id) && st.Ack.Count > 0; asks != w.asked {
			st.InForce = false // this process has not read the settings yet
		}
		if !ok {
			continue
		}
		st.Streams = append(st.Streams, stateful.Stream{Identity: id, Lag: l.replayed - min(w.flushed, l.replayed)})
		if s.mark > 0 && w.flushed >= s.mark && slices.Contains(st.Ack.Members, id) {
			caught++
		}
	}
	slices.SortFunc(st.Streams, func(a, b stateful.Stream) int { return strings.Compare(a.Identity, b.Identity) })
	if st.InForce && s.mark == 0 {
		s.mark = max(l.replayed, 1)
	}
	st.CaughtUp = st.InForce && s.mark > 0 && caught >= len(st.Ack.Members)
}

var segment = regexp.MustCompile(`^[0-9A-F]{24}$`)

// timeline is the highest that the log has anything of.
func (s *Server) timeline() uint64 {
	names, err := filepath.Glob(filepath.Join(s.c.Data, "pg_wal", "*"))
	if err != nil {
		return 0
	}
	var highest uint64
	for _, n := range names {
		if n = filepath.Base(n); segment.MatchString(n) {
			if t, err := strconv.ParseUint(n[:8], 16, 32); err == nil {
				highest = max(highest, t)
			}
		}
	}
	return highest
}
