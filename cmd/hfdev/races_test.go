package main

import (
	"strings"
	"testing"
)

func TestKnownRaces(t *testing.T) {
	stack := func(head string, functions ...string) string {
		s := head + "\n"
		for _, f := range functions {
			s += "  " + f + "\n      /root/go/pkg/mod/x.go:1 +0x1\n"
		}
		return s + "\n"
	}
	race := func(first, second string) string {
		return "==================\nWARNING: DATA RACE\n" + first + second +
			stack("Goroutine 2 (running) created at:", "holdfast.dev/holdfast/internal/build.y()") + "==================\n"
	}
	const w, p = "Write at 0x1 by goroutine 2:", "Previous read at 0x1 by goroutine 3:"
	list := []knownRace{{"example.com/x/solver.(*cache).Load", "reviewed"}, {"example.com/x/y.", "reviewed"}}
	for _, tt := range []struct {
		name  string
		text  string
		known bool
	}{
		{"both accesses are listed", race(stack(w, "example.com/x/solver.(*cache).Load()"), stack(p, "example.com/x/y.f.func1()")), true},
		{"below the runtime and the standard library", race(stack(w, "runtime.mapassign()", "encoding/json.(*d).object()", "example.com/x/y.f()"), stack(p, "example.com/x/y.f()")), true},
		{"our code calls them: it may be the one that should not", race(stack(w, "example.com/x/y.f()", "holdfast.dev/holdfast/internal/build.z()"), stack(p, "example.com/x/y.f()")), false},
		{"another function of the same module", race(stack(w, "example.com/x/solver.(*cache).Store()"), stack(p, "example.com/x/y.f()")), false},
		{"one access is ours", race(stack(w, "example.com/x/y.f()"), stack(p, "holdfast.dev/holdfast/internal/container.z()")), false},
		{"both are ours", race(stack(w, "holdfast.dev/holdfast/internal/container.z()"), stack(p, "holdfast.dev/holdfast/internal/container.z()")), false},
		{"a program's main", race(stack(w, "main.run()", "example.com/x/y.f()"), stack(p, "example.com/x/y.f()")), false},
		{"a stack that could not be restored", race(stack(w, "example.com/x/y.f()"), p+"\n  [failed to restore the stack]\n\n"), false},
		{"nothing that can be read", "WARNING: DATA RACE\nof a kind\n==================\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := parseRaces("something before\n" + tt.text + tt.text)
			if len(got) != 2 {
				t.Fatalf("%d reports: %q", len(got), got)
			}
			if k := got[1].known(list); (k != nil) != tt.known {
				t.Errorf("known as %v; accesses %q", k, got[1].access)
			}
		})
	}
	one := parseRaces(race(stack(w, "example.com/x/y.f()", "example.com/x/y.g()", "example.com/x/y.h()"), stack(p)))[0]
	if got, want := one.String(), "race: example.com/x/y.f() < example.com/x/y.g() | unknown"; got != want {
		t.Errorf("in one line: %q, not %q", got, want)
	}
	if got := parseRaces(""); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}

func TestListOfKnownRaces(t *testing.T) {
	for _, k := range knownRaces {
		if strings.HasPrefix(k.function, ourModule) || !strings.Contains(k.function, ".(") && !strings.HasSuffix(k.function, "()") && strings.Count(k.function, ".") < 2 {
			t.Errorf("%s: name a function, and of somebody else's", k.function)
		}
		if len(k.reason) < 20 {
			t.Errorf("%s: why?", k.function)
		}
	}
}
