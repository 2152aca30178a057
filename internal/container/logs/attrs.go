package logs

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"text/template"
)

// attributes are what the user asked to have added to each message: chosen
// labels and variables, and the tag.
func attributes(c Config) (map[string]string, error) {
	out := map[string]string{}
	env := map[string]string{}
	for _, e := range c.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	pick(out, c.Labels, c.Options["labels"])
	pick(out, env, c.Options["env"])
	if err := pickRegex(out, c.Labels, c.Options["labels-regex"]); err != nil {
		return nil, err
	}
	if err := pickRegex(out, env, c.Options["env-regex"]); err != nil {
		return nil, err
	}
	t, err := parseTag(c.Options["tag"])
	if err != nil || t == nil {
		return out, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, tagInfo{c}); err != nil {
		return nil, invalid("%v", err)
	}
	if b.Len() > 0 {
		out["tag"] = b.String()
	}
	return out, nil
}

// tagOf is the tag of a driver that always has one.
func tagOf(c Config, def string) (string, error) {
	text := c.Options["tag"]
	if text == "" {
		text = def
	}
	t, err := parseTag(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, tagInfo{c}); err != nil {
		return "", invalid("%v", err)
	}
	return b.String(), nil
}

func pick(out, from map[string]string, names string) {
	if names == "" {
		return
	}
	for name := range strings.SplitSeq(names, ",") {
		if v, ok := from[name]; ok {
			out[name] = v
		}
	}
}

func pickRegex(out, from map[string]string, expr string) error {
	if expr == "" {
		return nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return invalid("%v", err)
	}
	for k, v := range from {
		if re.MatchString(k) {
			out[k] = v
		}
	}
	return nil
}

// tagInfo is what a tag's template can name.
type tagInfo struct{ c Config }

func short(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if ok {
		id = hex
	}
	return id[:min(len(id), 12)]
}

// Config is the container's log options.
func (t tagInfo) Config() map[string]string { return t.c.Options }

// ID is the container's short ID.
func (t tagInfo) ID() string { return short(t.c.ContainerID) }

// FullID is the container's ID.
func (t tagInfo) FullID() string { return t.c.ContainerID }

// Name is the container's name.
func (t tagInfo) Name() string { return strings.TrimPrefix(t.c.ContainerName, "/") }

// ImageID is the image's short ID.
func (t tagInfo) ImageID() string { return short(t.c.ImageID) }

// ImageFullID is the image's ID.
func (t tagInfo) ImageFullID() string { return t.c.ImageID }

// ImageName is the image as the container names it.
func (t tagInfo) ImageName() string { return t.c.ImageName }

// Command is the container's command line.
func (t tagInfo) Command() string { return strings.Join(t.c.Command, " ") }

// DaemonName is what syslog would call the daemon.
func (t tagInfo) DaemonName() string { return "holdfast" }

// ContainerID and the following are the names of Docker's fields.
func (t tagInfo) ContainerID() string { return t.c.ContainerID }

// ContainerName is the name with its slash.
func (t tagInfo) ContainerName() string { return "/" + t.Name() }

// ContainerImageName is the image's name.
func (t tagInfo) ContainerImageName() string { return t.c.ImageName }

// ContainerImageID is the image's ID.
func (t tagInfo) ContainerImageID() string { return t.c.ImageID }

// ContainerLabels are the container's labels.
func (t tagInfo) ContainerLabels() map[string]string { return t.c.Labels }

// ContainerEnv are the container's variables.
func (t tagInfo) ContainerEnv() []string { return t.c.Env }

// Hostname is the machine's name.
func (t tagInfo) Hostname() (string, error) { return os.Hostname() }

// parseTag reads a tag's template; nil where there is none.
func parseTag(text string) (*template.Template, error) {
	if text == "" {
		return nil, nil
	}
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"split": strings.Split,
		"join":  strings.Join,
		"title": strings.ToTitle,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return s[:min(len(s), n)] },
	}).Parse(text)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return t, nil
}
