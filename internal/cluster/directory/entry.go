package directory

import (
	"net/netip"
	"slices"
)

// Entry is a container in a network, as its node tells of it.
type Entry struct {
	ID      string     `json:"i"` // of the endpoint
	Network string     `json:"n"`
	Task    string     `json:"t,omitempty"`
	Service string     `json:"s,omitempty"` // ID
	Name    string     `json:"N,omitempty"` // of the service
	Aliases []string   `json:"A,omitempty"` // more names of the service
	Own     []string   `json:"o,omitempty"` // names of this container alone
	Addr    netip.Addr `json:"a"`
	MAC     [6]byte    `json:"m"`
	VIP     netip.Addr `json:"v"` // of the service; invalid: its names lead to all addresses
	Ports   []Port     `json:"p,omitempty"`
	Healthy bool       `json:"h,omitempty"` // else it can be reached and has no name
	Fronts  []Front    `json:"f,omitempty"`
}

// Front is a service that the container has a part in, beside its own.
type Front struct {
	Name   string     `json:"N"`
	VIP    netip.Addr `json:"v"`           // invalid: the name leads to the container
	Behind bool       `json:"b,omitempty"` // it answers for the service
}

// Port is one of every node's that leads to the container.
type Port struct {
	Proto     string `json:"P"`
	Published uint16 `json:"p"`
	Target    uint16 `json:"t"`
}

func (e Entry) equal(o Entry) bool {
	return e.ID == o.ID && e.Network == o.Network && e.Task == o.Task && e.Service == o.Service && e.Name == o.Name &&
		slices.Equal(e.Aliases, o.Aliases) && slices.Equal(e.Own, o.Own) && e.Addr == o.Addr && e.MAC == o.MAC &&
		e.VIP == o.VIP && slices.Equal(e.Ports, o.Ports) && e.Healthy == o.Healthy && slices.Equal(e.Fronts, o.Fronts)
}

// Located is an entry with its whereabouts.
type Located struct {
	Entry
	Node string
	Via  netip.Addr // the node's end of tunnels
	// Live tells that the node is there. What is not is worth keeping a way to for a
	// while: connections may outlive what made the node look dead.
	Live bool
}
