package container

import (
	"syscall"

	"github.com/moby/sys/signal"
)

// parseSignal reads a signal by name, with or without SIG, or by number.
func parseSignal(name string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, invalid("%s", err)
	}
	return sig, nil
}

// stopSignal is what a config asks to be stopped with.
func stopSignal(name string) syscall.Signal {
	if sig, err := parseSignal(name); err == nil && name != "" {
		return sig
	}
	return syscall.SIGTERM
}
