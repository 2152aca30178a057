package member

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now is the machine's time since it started, as a time: only differences mean
// something. It goes on while the machine sleeps and is never set.
func Now() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("the kernel has no boot time: %v", err)) // since 2.6.39 it has
	}
	return time.Unix(0, ts.Nano())
}
