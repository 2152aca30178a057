package failpoint

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestTermsFollowEachOther(t *testing.T) {
	s, err := Parse("a=2*off->1*error(disk gone)->1*error->off; b=error")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "", "disk gone", "failpoint a", "", ""} {
		got := ""
		if err := s.Hit("a"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("hit %d: %q, want %q", i, got, want)
		}
	}
	for range 3 {
		if s.Hit("b") == nil {
			t.Error("b did not fail")
		}
	}
	if err := s.Hit("unknown"); err != nil {
		t.Error(err)
	}
}

func TestOffByDefault(t *testing.T) {
	if err := Hit("x"); err != nil {
		t.Error(err)
	}
}

func TestBadTerms(t *testing.T) {
	for _, s := range []string{"a", "a=explode", "a=x*error", "a=-1*error", "a=error->"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestKill(t *testing.T) {
	if os.Getenv("HF_KILL_CHILD") != "" {
		s, err := Parse("x=kill")
		if err != nil {
			os.Exit(3)
		}
		_ = s.Hit("x")
		os.Exit(4)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "HF_KILL_CHILD=1")
	_ = cmd.Run() // its end is what we look at
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Errorf("child ended with %v", cmd.ProcessState)
	}
}
