package cli

import (
	"errors"
	"strings"
	"testing"

	dockercli "github.com/docker/cli/cli"
)

func TestExplain(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{
			"misprinted mount", `invalid argument "type-volume,source=a" for "--mount" flag: invalid field 'type-volume' must be a key=value pair`,
			`invalid argument "type-volume,source=a" for "--mount" flag: invalid field 'type-volume' must be a key=value pair (did you mean type=volume?)`,
		},
		{
			"misprinted source", `invalid field 'source-/usr/data' must be a key=value pair`,
			`invalid field 'source-/usr/data' must be a key=value pair (did you mean source=/usr/data?)`,
		},
		{"a field of no meaning", `invalid field 'a-b' must be a key=value pair`, `invalid field 'a-b' must be a key=value pair`},
		{
			"a volume named like a folder",
			"docker: Error response from daemon: create /usr/data: \"/usr/data\" includes invalid characters for a local volume name, only x are allowed\n\nRun 'docker run --help' for more information",
			"docker: Error response from daemon: create /usr/data: \"/usr/data\" includes invalid characters for a local volume name, only x are allowed\n" +
				"a volume has a name, not a path; for the folder /usr/data of the host say type=bind\n\nRun 'docker run --help' for more information",
		},
		{
			"ports without blanks", "validating f.yml: services.api.ports must be a array",
			"validating f.yml: services.api.ports must be a array\nan item of a list needs a blank after its dash, as in: - '8080:80'",
		},
		{
			"deploy node", "validating f.yml: services.db.deploy additional properties 'node' not allowed",
			"validating f.yml: services.db.deploy additional properties 'node' not allowed (did you mean mode?)",
		},
		{"anything else", "no such container", "no such container"},
	} {
		err := explain(dockercli.StatusError{StatusCode: 125, Cause: errors.New(tc.in)})
		if err.Error() != tc.want {
			t.Errorf("%s:\ngot  %q\nwant %q", tc.name, err, tc.want)
		}
		if again := explain(err); again.Error() != tc.want {
			t.Errorf("%s: explained twice: %q", tc.name, again)
		}
		if code := exitCode(err); code != 125 {
			t.Errorf("%s: exit code %d", tc.name, code)
		}
	}
	if explain(nil) != nil {
		t.Error("no error is explained")
	}
}

func TestMessagesNameOurProgram(t *testing.T) {
	for in, want := range map[string]string{
		"docker: Error response from daemon: x\n\nRun 'docker run --help' for more information": "holdfast: Error response from daemon: x\n\nRun 'holdfast run --help' for more information",
		"docker: something of the user's": "docker: something of the user's",
		"Cannot connect to the Docker daemon at unix:///run/holdfast.sock. Is the docker daemon running?": "Cannot connect to the Holdfast daemon at unix:///run/holdfast.sock. Is holdfastd running?",
		"Cannot connect to the Docker daemon at tcp://h:1. Is the docker daemon running?":                 "Cannot connect to the Docker daemon at tcp://h:1. Is the docker daemon running?",
	} {
		if got := ours(in); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestUsageErrorOfAMisprintedMount(t *testing.T) {
	out := runForTest(t, nil, "run", "--mount", "type-volume,source=/usr/data,target=/d", "img")
	if out.code != 125 || !strings.Contains(out.err, "did you mean type=volume?") || !strings.Contains(out.err, "Usage:  holdfast run") {
		t.Errorf("got %+v", out)
	}
}
