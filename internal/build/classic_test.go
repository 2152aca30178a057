package build

import (
	"strings"
	"testing"
)

func TestClassicTellsStepsOnceWithTheirOutput(t *testing.T) {
	var out strings.Builder
	c := NewClassic(func(s string) { out.WriteString(s) })
	c.Step(Step{ID: "i", Name: "[internal] load build definition", Started: true})
	c.Step(Step{ID: "a", Name: "[build 1/2] FROM busybox"})
	c.Step(Step{ID: "a", Name: "[build 1/2] FROM busybox", Started: true})
	c.Step(Step{ID: "a", Name: "[build 1/2] FROM busybox", Started: true, Cached: true})
	c.Step(Step{ID: "b", Name: "[build 2/2] RUN make", Started: true})
	c.Step(Step{ID: "m", Name: "[2/2] RUN test", Started: true})
	c.Output("b", []byte("no newline"))
	c.Output("m", []byte("tested\n"))
	c.Output("i", []byte("nobody asked"))
	c.Warning("FROM and AS differ in case")
	c.Done("sha256:0123456789abcdef", []string{"app:latest"})
	want := `Step 1/2 : FROM busybox (stage build)
 ---> Using cache
Step 2/2 : RUN make (stage build)
Step 2/2 : RUN test
 ---> 2/2 : RUN make (stage build)
no newline
 ---> 2/2 : RUN test
tested
 ---> [Warning] FROM and AS differ in case
Successfully built 0123456789ab
Successfully tagged app:latest
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestAsStepError(t *testing.T) {
	err, ok := AsStepError(`failed to solve: process "/bin/sh -c echo \"a b\" && exit 7" did not complete successfully: exit code: 7`)
	if !ok || err.Code != 7 {
		t.Fatalf("got %v, %v", err, ok)
	}
	if want := `The command '/bin/sh -c echo "a b" && exit 7' returned a non-zero code: 7`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if _, ok := AsStepError("failed to solve: no such file"); ok {
		t.Error("took another error for a failed command")
	}
}
