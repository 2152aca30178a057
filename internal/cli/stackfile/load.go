package stackfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	composecli "github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// Request says what is loaded.
type Request struct {
	Stack   string   // its name, which is the project's too
	Files   []string // "-": what In gives; none: what compose takes then
	In      io.Reader
	Scratch string // a folder for secrets and configs that are given as text
}

// Stack is what a swarm is to run.
type Stack struct {
	Model   map[string]any // in the form of docker's stacks
	Ignored []string       // keys of the files that a swarm cannot honour
}

// Load reads the files as compose does.
func Load(ctx context.Context, r Request) (*Stack, error) {
	files, err := r.files()
	if err != nil {
		return nil, err
	}
	wd := "" // that of the first file
	if len(r.Files) > 0 && r.Files[0] == "-" {
		if wd, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	o, err := composecli.NewProjectOptions(files,
		composecli.WithWorkingDirectory(wd),
		composecli.WithOsEnv,
		composecli.WithEnvFiles(),
		composecli.WithDotEnv,
		composecli.WithConfigFileEnv,
		composecli.WithDefaultConfigPath,
		composecli.WithEnvFiles(), // beside the files, if those are elsewhere
		composecli.WithDotEnv,
		composecli.WithDefaultProfiles(),
		composecli.WithName(loader.NormalizeProjectName(r.Stack)),
		composecli.WithDiscardEnvFile,
	)
	if err != nil {
		return nil, err
	}
	project, err := o.LoadProject(ctx)
	if err != nil {
		return nil, Explain(err, o.ConfigPaths)
	}
	if project, err = project.WithServicesEnvironmentResolved(true); err != nil {
		return nil, err
	}
	model, err := modelOf(project)
	if err != nil {
		return nil, err
	}
	form, ignored, err := Form(model, Options{Content: r.content, Environment: project.Environment.Resolve})
	if err != nil {
		return nil, err
	}
	dropDefaultNames(form, project.Name)
	return &Stack{Model: form, Ignored: ignored}, nil
}

// Files are those that compose reads when it is given these.
func Files(given []string) ([]string, error) {
	o, err := composecli.NewProjectOptions(given, composecli.WithOsEnv, composecli.WithDotEnv, composecli.WithConfigFileEnv, composecli.WithDefaultConfigPath)
	if err != nil {
		return nil, err
	}
	return o.ConfigPaths, nil
}

// stdinFile is what was read from In, in the scratch folder: it is read again to
// tell what is wrong in it.
const stdinFile = "stdin.yml"

func (r Request) files() ([]string, error) {
	out := slices.Clone(r.Files)
	for i, f := range out {
		if f != "-" {
			continue
		}
		b, err := io.ReadAll(r.In)
		if err != nil {
			return nil, fmt.Errorf("read the compose file: %w", err)
		}
		out[i] = filepath.Join(r.Scratch, stdinFile)
		if err := write(out[i], b); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func modelOf(p *types.Project) (map[string]any, error) {
	b, err := p.MarshalYAML()
	if err != nil {
		return nil, err
	}
	var model map[string]any
	if err := yaml.Unmarshal(b, &model); err != nil {
		return nil, err
	}
	return model, nil
}

// content keeps a text for as long as the request goes on.
func (r Request) content(kind, name, text string) (string, error) {
	if r.Scratch == "" {
		return "", errors.New("is given as text: name a file")
	}
	p := filepath.Join(r.Scratch, kind+"."+filepath.Base(name))
	return p, write(p, []byte(text))
}

func write(p string, b []byte) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// dropDefaultNames takes out the names that compose made up itself: docker's client
// makes the same of the stack's.
func dropDefaultNames(model map[string]any, project string) {
	for _, kind := range []string{"networks", "volumes", "secrets", "configs"} {
		all := child(model, kind, false)
		for key, v := range all {
			r, ok := v.(map[string]any)
			if ok && r["external"] != true && r["name"] == project+"_"+key {
				delete(r, "name")
			}
		}
	}
}

// YAML is the stack as a file in which nothing is a variable.
func (s *Stack) YAML() ([]byte, error) { return yaml.Marshal(Escape(s.Model)) }

// Explain says where in the files the mistake is that compose refused, if that can
// be told; else err says it.
func Explain(err error, files []string) error {
	var found Problems
	for _, f := range files {
		b, rerr := os.ReadFile(f)
		if rerr != nil {
			continue // err is about something else, or about this
		}
		shown := f
		if filepath.Base(f) == stdinFile {
			shown = "stdin"
		}
		found = append(found, Lint(shown, b)...)
	}
	if len(found) == 0 {
		return err
	}
	return found
}
