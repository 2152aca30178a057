package route

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type entry struct {
	Name string
	Tags []string `json:",omitempty"`
}

// parts remembers how an answer was written.
type parts struct {
	*httptest.ResponseRecorder
	sizes []int
	fail  bool
}

func (p *parts) Write(b []byte) (int, error) {
	if p.fail {
		return 0, errors.New("the client is gone")
	}
	p.sizes = append(p.sizes, len(b))
	return p.ResponseRecorder.Write(b)
}

func TestListIsWrittenAsJSONInParts(t *testing.T) {
	long := make([]entry, 100)
	for i := range long {
		long[i] = entry{Name: strings.Repeat("<&>", 1000), Tags: []string{"a"}}
	}
	for name, list := range map[string][]entry{"nil": nil, "none": {}, "one": {{Name: "a&b"}}, "some": {{Name: "a"}, {}, {Name: "c"}}, "many": long} {
		whole, split := httptest.NewRecorder(), &parts{ResponseRecorder: httptest.NewRecorder()}
		want := list
		if want == nil {
			want = []entry{}
		}
		if err := errors.Join(JSON(whole, http.StatusOK, want), List(split, http.StatusOK, list)); err != nil {
			t.Fatal(err)
		}
		if whole.Body.String() != split.Body.String() || split.Code != http.StatusOK || split.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %.200q, want %.200q", name, split.Body, whole.Body)
		}
		for _, n := range split.sizes {
			if n > listPart+4<<10 {
				t.Errorf("%s: a part of %d bytes", name, n)
			}
		}
	}
	if err := List(&parts{ResponseRecorder: httptest.NewRecorder(), fail: true}, http.StatusOK, long); err == nil {
		t.Error("a client that is gone is no error")
	}
}
