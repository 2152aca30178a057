// Command holdfast-init is process 1 of a container started with --init: it
// starts the container's command, passes signals on to it, reaps what other
// processes leave behind and ends with the command's exit code.
//
//	holdfast-init [--] command [argument…]
package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Exit codes as shells use them.
const (
	codeUsage         = 2
	codeNotExecutable = 126
	codeNotFound      = 127
	codeSignal        = 128 // plus the signal's number
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		complain("no command given")
		return codeUsage
	}
	// Before the start, so that no signal meant for the command ends us.
	sigs := make(chan os.Signal, 64)
	signal.Notify(sigs)
	pid, err := start(args)
	if err != nil {
		complain("exec " + args[0] + ": " + err.Error())
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return codeNotFound
		}
		return codeNotExecutable
	}
	for s := range sigs {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(pid); ended {
				return code
			}
		case syscall.SIGURG: // Go's runtime sends it to itself
		default:
			if sig, ok := s.(syscall.Signal); ok {
				// The command may have ended just now: its SIGCHLD comes next.
				_ = syscall.Kill(pid, sig)
			}
		}
	}
	return codeUsage // unreachable: nobody closes sigs
}

// start runs the command in a process group of its own, which gets the
// terminal if there is one.
func start(args []string) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if e := new(exec.Error); errors.As(err, &e) {
			err = e.Err
		}
		return 0, err
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if terminal(0) {
		attr.Foreground = true
		attr.Ctty = 0
	}
	return syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   attr,
	})
}

// reap collects every process that has ended and says how the command did.
func reap(command int) (code int, ended bool) {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid <= 0:
			return code, ended
		case pid != command:
			continue
		}
		ended = true
		code = st.ExitStatus()
		if st.Signaled() {
			code = codeSignal + int(st.Signal())
		}
	}
}

func complain(text string) {
	// Where stderr is closed there is nobody to tell.
	_, _ = os.Stderr.WriteString("holdfast-init: " + text + "\n")
}
