package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// twinStep is one step of test/compat on one engine, as its tests leave it.
type twinStep struct{ Client, Step, Failed, Reason string }

const twinHead = `# Clients on both engines

Written by ` + "`make compat`" + `, which runs test/compat against this engine and against
Debian's dockerd 20.10, with the same clients unchanged. A step that the twin does
not go through is listed in test/compat/twin_test.go with its reason; one that it
comes to go through fails the run.

`

// runTwin makes the table of what test/compat did on both engines.
func runTwin(args []string) error {
	fs := flag.NewFlagSet("twin", flag.ContinueOnError)
	in := fs.String("in", "", "folder with holdfastd.json and dockerd.json")
	write := fs.String("write", "", "file to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ours, err := readSteps(filepath.Join(*in, "holdfastd.json"))
	if err != nil {
		return err
	}
	theirs, err := readSteps(filepath.Join(*in, "dockerd.json"))
	if err != nil {
		return err
	}
	return os.WriteFile(*write, []byte(twinTable(ours, theirs)), 0o644)
}

func readSteps(path string) ([]twinStep, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []twinStep
	return out, json.Unmarshal(b, &out)
}

// twinTable has a row for each step of ours, in its order.
func twinTable(ours, theirs []twinStep) string {
	peer := map[string]twinStep{}
	for _, s := range theirs {
		peer[s.Client+s.Step] = s
	}
	var b strings.Builder
	b.WriteString(twinHead)
	b.WriteString("| client | step | Holdfast | dockerd 20.10 | reason |\n|---|---|---|---|---|\n")
	for _, s := range ours {
		p, ran := peer[s.Client+s.Step]
		there := said(p.Failed)
		if !ran {
			there = "not run"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.Client, s.Step, said(s.Failed), there, cell(p.Reason))
	}
	return b.String()
}

func said(failed string) string {
	if failed == "" {
		return "ok"
	}
	return "fails: " + cell(failed)
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
