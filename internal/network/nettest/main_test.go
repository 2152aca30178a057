package nettest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestMain runs the tests in network and mount namespaces of their own, so
// that whatever they leave goes with the process.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv("HF_NETTEST_INSIDE") == "1" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "keep mounts to ourselves:", err)
			os.Exit(1)
		}
		if err := askForIPv6(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "HF_NETTEST_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	err := cmd.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests in a namespace of their own:", err)
		os.Exit(1)
	}
}

// askForIPv6 has package net find out, once and for the whole process, what the
// kernel can do: it tries loopback, and tests whose first listener is in a
// namespace without IPv6 would have all later ones on IPv4 only.
func askForIPv6() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	return l.Close()
}
