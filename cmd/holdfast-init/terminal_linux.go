package main

import (
	"syscall"
	"unsafe"
)

// terminal says whether the descriptor is the controlling terminal.
func terminal(fd uintptr) bool {
	var pgrp int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&pgrp)))
	return errno == 0
}
