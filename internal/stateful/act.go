package stateful

import (
	"fmt"
	"slices"
)

// Act is the next thing that a node has one of its members do. At most one field
// is set.
type Act struct {
	Lead    *Lead
	Stop    uint64 // the leader of this epoch, at once
	Switch  uint64 // the leader of this epoch, cleanly, and give the set back
	Release uint64 // give this epoch back: its leader has ended
	Began   Chain  // tell that the leader takes writes
	Record  *Sync
	Ack     *Ack
	Follow  *Follow
}

// String names it, for logs.
func (a Act) String() string {
	switch {
	case a.Lead != nil:
		return "lead"
	case a.Stop > 0:
		return "stop"
	case a.Switch > 0:
		return "switch over"
	case a.Release > 0:
		return "release"
	case a.Began != nil:
		return "announce"
	case a.Record != nil:
		return fmt.Sprintf("record %+v", *a.Record)
	case a.Ack != nil:
		return fmt.Sprintf("acknowledge %+v", *a.Ack)
	case a.Follow != nil:
		return "follow"
	}
	return "nothing"
}

// NextAct decides it. grant is what the node may lead of the set now; alone says
// that the leader has had no follower for long.
func NextAct(v View, st State, grant *Lead, alone bool) Act {
	r := v.Record
	mine := r.Leader != "" && r.Leader == st.Identity
	leading := st.Phase == Leading || st.Phase == Promoting
	switch {
	case grant == nil || !mine || grant.Epoch != r.Epoch:
		if leading {
			return Act{Stop: st.Epoch}
		}
		if grant != nil && grant.Epoch == r.Epoch && !mine && MemberOf(r.Leader) == st.Member {
			return Act{Release: grant.Epoch} // it led with data that is gone
		}
		return follow(v, st)
	case st.Lost >= r.Epoch:
		return Act{Release: r.Epoch}
	case v.Switch != nil && v.Switch.Epoch == r.Epoch && st.Phase == Leading && v.Chain.Epoch() == r.Epoch && maySwitch(v, st):
		return Act{Switch: r.Epoch}
	case !leading || st.Epoch != r.Epoch:
		grant.Ack, grant.Secret, grant.Peers = FirstAck(r), v.Secret, peers(v, st.Member)
		grant.First = v.Chain.Epoch() == 0
		if !v.Mode.Sync() {
			grant.Ack = Ack{}
		}
		return Act{Lead: grant}
	case st.Phase != Leading:
		return Act{} // it is being promoted
	case v.Chain.Epoch() != r.Epoch:
		if st.Chain.Epoch() == r.Epoch {
			return Act{Began: st.Chain}
		}
		return Act{}
	}
	want, ok := wanted(v.Mode, st, alone)
	if !ok {
		return Act{}
	}
	step := NextStep(r.Sync, st.Ack, want, st.InForce && st.CaughtUp)
	return Act{Record: step.Record, Ack: step.Ack}
}

// mayLag is how far behind a follower may be that is asked to acknowledge: until
// it is nearer, commits would wait for it.
const mayLag = 16 << 20

// wanted is whom the leader should ask; ok is false where that cannot be said now.
func wanted(m Mode, st State, alone bool) (want Ack, ok bool) {
	if !m.Sync() {
		return Ack{}, true
	}
	for _, s := range st.Streams {
		if s.Lag < mayLag || slices.Contains(st.Ack.Members, s.Identity) {
			want.Members = append(want.Members, s.Identity)
		}
	}
	if len(want.Members) > 0 {
		slices.Sort(want.Members)
		want.Count = 1
		return want, true
	}
	return Ack{}, alone && m == ModeOn
}

// maySwitch says whether the wanted leader could take over without a wait.
func maySwitch(v View, st State) bool {
	for _, s := range st.Streams {
		to := v.Switch.To
		if (to == "" || MemberOf(s.Identity) == to) && s.Lag < mayLag && slices.Contains(v.Record.Sync.Members, s.Identity) {
			return true
		}
		if !v.Mode.Sync() && (to == "" || MemberOf(s.Identity) == to) && s.Lag < mayLag {
			return true
		}
	}
	return false
}

// follow has a member that does not lead read the log of who does.
func follow(v View, st State) Act {
	r := v.Record
	leader := MemberOf(r.Leader)
	addr := v.Addrs[leader]
	if v.ByName {
		addr = leader
	}
	if r.Leader == "" || leader == st.Member || addr == "" || v.Chain.Epoch() != r.Epoch || st.Promised > r.Epoch {
		return Act{}
	}
	if st.Epoch == r.Epoch && (st.Phase == Following || st.Phase == Cloning || st.Phase == Starting) {
		return Act{}
	}
	return Act{Follow: &Follow{Epoch: r.Epoch, Host: addr, Port: v.Port, Chain: v.Chain, Secret: v.Secret, MayDiscard: true}}
}

func peers(v View, self string) []string {
	return slices.DeleteFunc(v.Members(), func(m string) bool { return m == self })
}
