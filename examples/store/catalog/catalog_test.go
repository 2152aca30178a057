package catalog

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
)

// The engine's resolver turns its answers; with turns of our own on top, one
// standby of two would get all reads.
func TestStandbysKeepTheirOrderWhateverTheResolverSays(t *testing.T) {
	c, err := Open(t.Context(), Settings{Host: "db-master", Port: 5432, Database: "store", User: "u", ReadHosts: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := map[string][]string{"a": {"10.0.0.2", "10.0.0.1"}}
	var failure error = &net.DNSError{Err: "no such host", IsNotFound: true}
	c.lookup = func(_ context.Context, host string) ([]string, error) {
		if a := answers[host]; a != nil {
			return a, nil
		}
		return nil, failure
	}
	hosts := func() []string {
		pools, err := c.readers(t.Context())
		if err == nil {
			t.Error("the unknown name is not told")
		}
		var out []string
		for _, p := range pools {
			out = append(out, p.Config().ConnConfig.Host)
		}
		return out
	}
	want := []string{"10.0.0.1", "10.0.0.2"}
	for range 3 {
		if got := hosts(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		slices.Reverse(answers["a"])
	}
	first := c.standbys["10.0.0.1"]
	answers["a"] = []string{"10.0.0.1", "10.0.0.1", "10.0.0.3"}
	if got := hosts(); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.3"}) {
		t.Errorf("after a change got %q", got)
	}
	if c.standbys["10.0.0.1"] != first || len(c.standbys) != 2 {
		t.Errorf("kept %v", c.standbys)
	}
	// No answer at all: the last one holds. An answer that there is none: it does not.
	delete(answers, "a")
	found := failure
	failure = errors.New("connection refused")
	if got := hosts(); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.3"}) {
		t.Errorf("without an answer got %q", got)
	}
	failure = found
	if got := hosts(); len(got) != 0 {
		t.Errorf("with no such host got %q", got)
	}
}
