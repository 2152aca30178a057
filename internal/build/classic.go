package build

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Step is what is known of one step of a build.
type Step struct {
	ID      string
	Name    string // as BuildKit words it: "[stage 2/5] RUN make"
	Started bool
	Cached  bool
}

// Classic words a build's progress as Docker's classic builder did, for people
// and for clients that read it. Steps of different stages run side by side;
// output is told with its step wherever the step changes.
type Classic struct {
	mu      sync.Mutex // guards the fields below; held across writes, to keep lines whole
	write   func(string)
	steps   map[string]*shown
	current string // the step whose output is being written
	midLine bool
}

type shown struct {
	title  string
	cached bool
}

// NewClassic returns a Classic that writes by the function, in pieces that may
// be parts of lines.
func NewClassic(write func(string)) *Classic {
	return &Classic{write: write, steps: map[string]*shown{}}
}

// stepName is "[2/5] RUN make" or "[stage 2/5] RUN make", also with a platform
// before the stage.
var stepName = regexp.MustCompile(`^\[(?:(.*) )?(\d+)/(\d+)\] (.*)$`)

// title is a step's line, or "" for what happens behind the scenes.
func title(name string) string {
	m := stepName.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return ""
	}
	if m[1] != "" {
		return fmt.Sprintf("Step %d/%s : %s (stage %s)", n, m[3], m[4], m[1])
	}
	return fmt.Sprintf("Step %d/%s : %s", n, m[3], m[4])
}

// Step tells about a step. It may be told any number of times.
func (c *Classic) Step(s Step) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sh := c.steps[s.ID]
	if sh == nil {
		sh = &shown{title: title(s.Name)}
		if !s.Started || sh.title == "" {
			return
		}
		c.steps[s.ID] = sh
		c.line(sh.title)
		c.current = s.ID
	}
	if s.Cached && !sh.cached {
		sh.cached = true
		c.resume(s.ID)
		c.line(" ---> Using cache")
	}
}

// Output passes on what a step printed.
func (c *Classic) Output(id string, data []byte) {
	if len(data) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps[id] == nil {
		return
	}
	c.resume(id)
	c.write(string(data))
	c.midLine = data[len(data)-1] != '\n'
}

// Warning tells something about the Dockerfile.
func (c *Classic) Warning(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line(" ---> [Warning] " + text)
}

// Done tells the end of a good build.
func (c *Classic) Done(imageID string, tags []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line("Successfully built " + ShortID(imageID))
	for _, t := range tags {
		c.line("Successfully tagged " + t)
	}
}

// resume says whose output follows, if it was another's before.
func (c *Classic) resume(id string) {
	if c.current == id {
		return
	}
	c.current = id
	c.line(" ---> " + strings.TrimPrefix(c.steps[id].title, "Step "))
}

func (c *Classic) line(s string) {
	if c.midLine {
		s = "\n" + s
		c.midLine = false
	}
	c.write(s + "\n")
}

// ShortID is the form in which people see an image's ID.
func ShortID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	return hex[:min(len(hex), 12)]
}

// StepError is a step's command that ended with an exit code.
type StepError struct {
	Command string
	Code    int
}

// Error is the classic builder's text.
func (e *StepError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}

// failedProcess is BuildKit's text for a command that failed.
var failedProcess = regexp.MustCompile(`process "(.*)" did not complete successfully: exit code: (\d+)`)

// AsStepError finds the failed command in a build's error text.
func AsStepError(text string) (*StepError, bool) {
	m := failedProcess.FindStringSubmatch(text)
	if m == nil {
		return nil, false
	}
	code, err := strconv.Atoi(m[2])
	if err != nil {
		return nil, false
	}
	command, err := strconv.Unquote(`"` + m[1] + `"`)
	if err != nil {
		command = m[1]
	}
	return &StepError{Command: command, Code: code}, true
}
