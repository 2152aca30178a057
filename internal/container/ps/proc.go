package ps

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/user"
)

const ticksPerSecond = 100 // of the times in /proc, on every Linux

// read makes the columns of `ps -ef` from the files of /proc. A process that
// ends meanwhile is left out.
func read(proc string, pids []int, now time.Time) ([]string, [][]string, error) {
	boot, err := bootTime(proc)
	if err != nil {
		return nil, nil, err
	}
	rows := [][]string{}
	for _, pid := range pids {
		row, err := readOne(filepath.Join(proc, strconv.Itoa(pid)), pid, boot, now)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read process %d: %w", pid, err)
		}
		rows = append(rows, row)
	}
	return []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, rows, nil
}

func bootTime(proc string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	_, rest, ok := strings.Cut(string(b), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	sec, err := strconv.ParseInt(line, 10, 64)
	if !ok || err != nil {
		return time.Time{}, errors.New("no boot time in /proc/stat")
	}
	return time.Unix(sec, 0), nil
}

func readOne(dir string, pid int, boot, now time.Time) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	// pid (name) state ppid …: the name may hold anything, parentheses too.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return nil, errors.New("malformed stat")
	}
	name := string(b[open+1 : end])
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return nil, errors.New("malformed stat")
	}
	num := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel writes numbers
		return n
	}
	used := time.Duration(num(11)+num(12)) * time.Second / ticksPerSecond
	start := boot.Add(time.Duration(num(19)) * time.Second / ticksPerSecond)
	st, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	return []string{
		userName(st), strconv.Itoa(pid), f[1], share(used, now.Sub(start)),
		startTime(start, now), terminal(int(num(4))), cpuTime(used), command(dir, name, f[0]),
	}, nil
}

func userName(st os.FileInfo) string {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return "?"
	}
	if u, err := user.LookupUid(int(s.Uid)); err == nil {
		return u.Name
	}
	return strconv.Itoa(int(s.Uid))
}

// share is the part of its life that a process had a CPU, in per cent.
func share(used, life time.Duration) string {
	if life <= 0 {
		return "0"
	}
	return strconv.Itoa(min(99, int(100*used/life)))
}

func startTime(start, now time.Time) string {
	switch {
	case now.Sub(start) < 24*time.Hour && start.YearDay() == now.YearDay():
		return start.Format("15:04")
	case start.Year() == now.Year():
		return start.Format("Jan02")
	}
	return start.Format("2006")
}

// terminal names the terminal of a device number.
func terminal(dev int) string {
	major := dev >> 8 & 0xfff
	minor := dev&0xff | dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return "pts/" + strconv.Itoa((major-136)<<8+minor)
	case major == 4 && minor < 64:
		return "tty" + strconv.Itoa(minor)
	case major == 4:
		return "ttyS" + strconv.Itoa(minor-64)
	}
	return "?"
}

func cpuTime(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func command(dir, name, state string) string {
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	text := strings.TrimSpace(string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '})))
	switch {
	case err == nil && text != "":
		return text
	case state == "Z":
		return "[" + name + "] <defunct>"
	}
	return "[" + name + "]"
}
