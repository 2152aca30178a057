package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// The result goes between these lines of the document; the prose around them stays.
const (
	beginMark = "<!-- hfdev bench: begin -->"
	endMark   = "<!-- hfdev bench: end -->"
)

// report is the result in Markdown.
func (b *bench) report(now time.Time) string {
	var w strings.Builder
	fmt.Fprintf(&w, "Measured %s on %s. Load average %s before, %s after: what else ran on the machine takes from both sides.\n\n",
		now.UTC().Format("2006-01-02 15:04 MST"), b.machine(), b.loadBefore, loadAverage())
	w.WriteString("| what | Holdfast | peer | ratio | target | | n | spread |\n|---|--:|--:|--:|--:|---|--:|--:|\n")
	for _, r := range b.rows {
		target := ""
		if r.within != 0 {
			target = fmt.Sprintf("≤ %s", r.unit.format(samples{r.within}))
		}
		if r.target != 0 {
			sign := "≤"
			if r.unit.higher {
				sign = "≥"
			}
			target = fmt.Sprintf("%s %.2f", sign, r.target)
		}
		fmt.Fprintf(&w, "| %s | %s | %s %s | %.2f | %s | %s | %d | %.0f/%.0f %% |\n", r.what, r.unit.format(r.ours),
			r.name, r.unit.format(r.peer), r.ratio(), target, r.verdict(), len(r.ours), r.ours.spread()*100, r.peer.spread()*100)
	}
	w.WriteString("\nMedians of samples taken in turns in one run; *spread* is the distance between the quartiles as a share of the median, ours/peer's.\n")
	for _, n := range b.notes {
		fmt.Fprintf(&w, "\n%s.\n", n)
	}
	return w.String()
}

// machine describes where the measurement was taken.
func (b *bench) machine() string {
	parts := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))}
	parts = append(parts, "memory "+field("/proc/meminfo", "MemTotal"))
	parts = append(parts, "Linux "+strings.TrimSpace(readFile("/proc/sys/kernel/osrelease")))
	if out, err := exec.Command("df", "--output=fstype", b.ours.Dir()).Output(); err == nil {
		f := strings.Fields(string(out))
		parts = append(parts, f[len(f)-1])
	}
	parts = append(parts, "Holdfast "+dockerVersion(b.ours))
	if b.docker != nil {
		parts = append(parts, "Docker "+dockerVersion(b.docker))
	}
	if b.podman != nil {
		parts = append(parts, strings.TrimSpace(b.podman.do("--version")))
	}
	if out, err := exec.Command("docker", "--version").Output(); err == nil {
		parts = append(parts, "client "+strings.TrimSpace(string(out)))
	}
	return strings.Join(parts, ", ")
}

// loadAverage is that of the last minute.
func loadAverage() string {
	avg, _, _ := strings.Cut(readFile("/proc/loadavg"), " ")
	return avg
}

func field(file, name string) string {
	s := bufio.NewScanner(strings.NewReader(readFile(file)))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown " + name
}

func readFile(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func writeFile(name string, b []byte) error {
	return os.WriteFile(name, b, 0o600)
}

// writeReport replaces what is between the marks of a document.
func writeReport(name, report string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	text, err := splice(string(b), report)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(text), 0o600) // keeps the mode of what is there
}

func splice(doc, report string) (string, error) {
	head, rest, ok := strings.Cut(doc, beginMark)
	if !ok {
		return "", errors.New("has no line " + beginMark)
	}
	_, tail, ok := strings.Cut(rest, endMark)
	if !ok {
		return "", errors.New("has no line " + endMark)
	}
	return head + beginMark + "\n" + report + endMark + tail, nil
}
