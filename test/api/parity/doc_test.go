package parity

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

const preface = `# What of Docker's interface is served

Written by ` + "`make golden-update`" + ` from the tables in test/api/parity, whose tests drive
every row against a daemon. The flags are those of docker's own command tree, the
endpoints and filters those of the API's own description: one without a row fails
the test.

*served*: does what Docker does. *partly*: with what is missing. *refused*: by an
error with the message that is shown.

`

func render() string {
	var b strings.Builder
	b.WriteString(preface)
	counts := map[state]int{}
	section := func(title, prefix, head string, rows []row) {
		fmt.Fprintf(&b, "## %s\n\n| %s | state | |\n|---|---|---|\n", title, head)
		for _, r := range rows {
			counts[r.state]++
			note := r.note
			if r.state == refused {
				note = "“" + note + "”"
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s |\n", prefix, r.name, r.state, strings.ReplaceAll(note, "|", "\\|"))
		}
		b.WriteString("\n")
	}
	for _, table := range tables {
		section("Flags of "+table.command, "--", "flag", table.rows)
	}
	section("Endpoints", "", "endpoint", endpoints)
	section("Filters", "", "endpoint and filter", filterRows)
	fmt.Fprintf(&b, "Rows: %d served, %d partly, %d refused.\n", counts[served], counts[partly], counts[refused])
	return b.String()
}

func TestReviewedDocument(t *testing.T) {
	path := filepath.Join(testkit.RepoRoot(), "docs", "compatibility.md")
	if *update {
		if err := os.WriteFile(path, []byte(render()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != render() {
		t.Error("docs/compatibility.md is not what the tables say: make golden-update")
	}
}

func TestEveryRowHasACheckAndARefusalItsMessage(t *testing.T) {
	all := append(append([]row{}, endpoints...), filterRows...)
	for _, table := range tables {
		all = append(all, table.rows...)
	}
	for _, r := range all {
		if r.check == nil || r.state != served && r.note == "" {
			t.Errorf("%s: no check, or nothing said of why it is %s", r.name, r.state)
		}
	}
}
