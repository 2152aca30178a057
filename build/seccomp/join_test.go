package seccomp_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// actions are libseccomp's numbers.
var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: 0, specs.ActTrap: 0x00030000, specs.ActErrno: 0x00050000, specs.ActTrace: 0x7ff00000,
	specs.ActLog: 0x7ffc0000, specs.ActAllow: 0x7fff0000, specs.ActKillProcess: 0x80000000,
}

var operators = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4,
	specs.OpGreaterEqual: 5, specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

func program(t *testing.T) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an x86_64 machine: the test program knows its other architectures")
	}
	out := filepath.Join(t.TempDir(), "join_test")
	var wraps []string
	for _, f := range wrapped {
		wraps = append(wraps, "-Wl,--wrap=seccomp_"+f)
	}
	args := append([]string{"-O2", "-Wall", "-Wextra", "-Werror", "-o", out, "src/join_test.c", "src/join.c"}, wraps...)
	if b, err := exec.Command(gcc, append(args, "-static", "-lseccomp")...).CombinedOutput(); err != nil {
		if strings.Contains(string(b), "seccomp.h: No such file") {
			t.Skip("needs libseccomp-dev")
		}
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

// wrapped are the functions that build/binaries.mk has the linker wrap too.
var wrapped = []string{
	"init", "release", "reset", "merge", "arch_add", "arch_exist", "arch_remove", "attr_set", "syscall_priority",
	"rule_add_array", "rule_add_exact_array", "load", "export_bpf", "export_pfc",
}

// check has the test program compare both filters of a profile.
func check(t *testing.T, prog string, p *specs.LinuxSeccomp) {
	t.Helper()
	args := []string{fmt.Sprintf("%x", number(p.DefaultAction, p.DefaultErrnoRet))}
	for _, a := range p.Architectures {
		args = append(args, strings.ToLower(strings.TrimPrefix(string(a), "SCMP_ARCH_")))
	}
	var rules bytes.Buffer
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if s.Action == p.DefaultAction && s.ErrnoRet == nil {
				continue // as runc does
			}
			fmt.Fprintf(&rules, "%x %s", number(s.Action, s.ErrnoRet), name)
			for _, a := range s.Args {
				fmt.Fprintf(&rules, " %x %x %x %x", a.Index, operators[a.Op], a.Value, a.ValueTwo)
			}
			rules.WriteByte('\n')
		}
	}
	cmd := exec.Command(prog, args...)
	cmd.Stdin = &rules
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
		return
	}
	t.Logf("%s", out)
}

func number(a specs.LinuxSeccompAction, errno *uint) uint32 {
	n := actions[a]
	if a == specs.ActErrno || a == specs.ActTrace {
		v := uint(1) // EPERM
		if errno != nil {
			v = *errno
		}
		n |= uint32(v) & 0xffff
	}
	return n
}

// The profile that containers get: with none and with all capabilities.
func TestJoinedFilterDecidesAsLibseccompDefaultProfile(t *testing.T) {
	prog := program(t)
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_TIME", "CAP_BPF", "CAP_SYSLOG", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_PERFMON", "CAP_DAC_READ_SEARCH", "CAP_SYS_PACCT", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_AUDIT_CONTROL"}} {
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
		p, err := seccomp.GetDefaultProfile(spec)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Architectures) != 3 {
			t.Fatalf("architectures %v: the joining is not tested", p.Architectures)
		}
		check(t, prog, p)
	}
}

// Profiles that people write: any mix of actions, conditions and architectures.
// A call has rules of one action only: which of two rules with different actions
// wins where both hold, libseccomp does not promise, and it changes with its input.
func TestJoinedFilterDecidesAsLibseccompRandomProfiles(t *testing.T) {
	prog := program(t)
	names := []string{
		"read", "write", "socket", "accept", "accept4", "connect", "shmget", "semop", "socketcall", "ipc", "clone", "clone3",
		"personality", "mmap", "mmap2", "_llseek", "time", "statx", "ptrace", "x32_only_no_such", "execve", "ioctl", "openat2",
	}
	ops := []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	kinds := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActLog, specs.ActTrap}
	mixes := [][]specs.Arch{
		{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		{specs.ArchX86, specs.ArchX32},
		{specs.ArchX32},
		{specs.ArchX86},
		{specs.ArchX86_64},
		{specs.ArchX32, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM},
		nil,
	}
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := &specs.LinuxSeccomp{DefaultAction: kinds[rnd.IntN(len(kinds))], Architectures: mixes[int(seed)%len(mixes)]}
		for range 1 + rnd.IntN(24) {
			name := names[rnd.IntN(len(names))]
			s := specs.LinuxSyscall{Names: []string{name}, Action: kinds[(len(name)+int(seed))%len(kinds)]}
			switch name {
			case "socket", "accept", "accept4", "connect", "socketcall", "shmget", "semop", "ipc":
				s.Action = kinds[seed%2] // on x86 these are one call
			}
			if s.Action == p.DefaultAction {
				continue
			}
			for _, index := range rnd.Perm(6)[:rnd.IntN(3)] {
				s.Args = append(s.Args, specs.LinuxSeccompArg{
					Index: uint(index), Op: ops[rnd.IntN(len(ops))], Value: rnd.Uint64() >> rnd.IntN(64), ValueTwo: rnd.Uint64() >> rnd.IntN(64),
				})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { check(t, prog, p) })
	}
}
