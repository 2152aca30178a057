package api

import "time"

// Paths of stateful sets. They are served by managers.
const (
	PathSets       = Prefix + "/stateful"                   // GET: []StatefulSet
	PathSet        = Prefix + "/stateful/{name}"            // GET: StatefulSet, with its history
	PathSetSwitch  = Prefix + "/stateful/{name}/switchover" // POST StatefulSwitchover; 204 when it is asked for
	PathSetPause   = Prefix + "/stateful/{name}/pause"      // POST; 204
	PathSetRebuild = Prefix + "/stateful/{name}/rebuild"    // POST StatefulRebuild; 204 when the member has no data any more
	PathSetResume  = Prefix + "/stateful/{name}/resume"     // POST; 204
)

// StatefulSet is a set of database members, one of which leads.
type StatefulSet struct {
	ID          string           `json:"id"` // of its service
	Name        string           `json:"name"`
	Profile     string           `json:"profile"`
	Synchronous string           `json:"synchronous"` // on, off, strict
	Port        int              `json:"port"`
	Epoch       uint64           `json:"epoch"`
	Leader      string           `json:"leader"` // a member's name; empty while there is none
	Writable    bool             `json:"writable"`
	Protected   bool             `json:"protected"`             // another leader with every acknowledged row is ready, should this one be lost
	Unprotected string           `json:"unprotected,omitempty"` // why not
	Paused      bool             `json:"paused"`
	Waiting     string           `json:"waiting,omitempty"` // for what, where something is missing
	Members     []StatefulMember `json:"members"`
	History     []StatefulEvent  `json:"history,omitempty"`
}

// StatefulMember is one member of a set.
type StatefulMember struct {
	Name         string  `json:"name"`
	Node         string  `json:"node"`
	Address      string  `json:"address"`
	Phase        string  `json:"phase"` // leading, following, …; unknown where its node does not answer
	Epoch        uint64  `json:"epoch"`
	Lag          *uint64 `json:"lag,omitempty"` // bytes, as the leader sees it
	Acknowledges bool    `json:"acknowledges"`  // the leader asks it before it acknowledges a commit
	Problem      string  `json:"problem,omitempty"`
}

// StatefulEvent is a moment in a set's life.
type StatefulEvent struct {
	Time  time.Time `json:"time"`
	Epoch uint64    `json:"epoch"`
	What  string    `json:"what"`
}

// StatefulSwitchover asks for another leader.
type StatefulSwitchover struct {
	To string `json:"to,omitempty"` // a member's name; empty: whoever is best
}

// StatefulRebuild has a member throw its data away and clone the leader's.
type StatefulRebuild struct {
	Member string `json:"member"`
}
