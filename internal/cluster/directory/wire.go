package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Kinds of messages between nodes: the first byte of each.
const (
	kindDelta  = 'd'
	kindLists  = 'l'
	kindDigest = 'g'
	kindWant   = 'w'
)

// Limits of what is taken in. Who has the swarm's keys is trusted, but not to be
// free of mistakes.
const (
	maxMessage = 8 << 20
	maxEntries = 100_000
)

type digest struct {
	From  string           `json:"f"`
	Nodes map[string]stamp `json:"n"`
}

// want asks for the lists of nodes.
type want struct {
	From  string   `json:"f"`
	Nodes []string `json:"n"`
}

func encode(kind byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // our own types: they can be written
		return []byte{kind}
	}
	return append([]byte{kind}, b...)
}

// message is one of the four.
type message struct {
	delta  *delta
	lists  []list
	digest *digest
	want   *want
}

func decode(b []byte) (message, error) {
	var m message
	if len(b) < 2 || len(b) > maxMessage {
		return m, fmt.Errorf("message of %d bytes", len(b))
	}
	into := func(v any) error {
		d := json.NewDecoder(bytes.NewReader(b[1:]))
		if err := d.Decode(v); err != nil {
			return err
		}
		if d.More() {
			return errors.New("more than one value")
		}
		return nil
	}
	var err error
	switch b[0] {
	case kindDelta:
		m.delta = &delta{}
		if err = into(m.delta); err == nil {
			err = checkEntries(m.delta.Put)
		}
	case kindLists:
		if err = into(&m.lists); err == nil {
			for _, l := range m.lists {
				err = errors.Join(err, checkEntries(l.Entries))
			}
		}
	case kindDigest:
		m.digest = &digest{}
		err = into(m.digest)
	case kindWant:
		m.want = &want{}
		err = into(m.want)
	default:
		err = fmt.Errorf("kind %q", b[0])
	}
	return m, err
}

// checkEntries refuses what would be of no use to the kernel or a resolver.
func checkEntries(es []Entry) error {
	if len(es) > maxEntries {
		return fmt.Errorf("%d entries", len(es))
	}
	for _, e := range es {
		switch {
		case e.ID == "" || e.Network == "":
			return errors.New("entry without an ID or a network")
		case !plain(e.Addr):
			return fmt.Errorf("entry %s has the address %s", e.ID, e.Addr)
		case e.VIP.IsValid() && !plain(e.VIP):
			return fmt.Errorf("entry %s has the service's address %s", e.ID, e.VIP)
		}
	}
	return nil
}

func plain(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}
