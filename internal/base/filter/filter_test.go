package filter

import "testing"

func TestArgs(t *testing.T) {
	a := Args{"name": {"web", "^db-[0-9]$", "["}, "label": {"a", "b=2"}, "no": {"x=1"}, "dangling": {"true"}, "bad": {"true", "0"}}
	for name, ok := range map[string]bool{
		"exact":         a.Exact("name", "web"),
		"not exact":     !a.Exact("name", "webs"),
		"no filter":     a.Exact("driver", "x") && a.Match("driver", "x") && a.Prefix("driver", "x") && a.Labels("driver", nil),
		"substring":     a.Match("name", "my-web-1"),
		"regexp":        a.Match("name", "db-7") && !a.Match("name", "db-77"),
		"prefix":        a.Prefix("name", "web2") && !a.Prefix("name", "2web"),
		"labels":        a.Labels("label", map[string]string{"a": "", "b": "2"}),
		"label missing": !a.Labels("label", map[string]string{"b": "2"}),
		"label value":   !a.Labels("label", map[string]string{"a": "", "b": "3"}),
		"no label":      a.NoLabels("no", nil) && a.NoLabels("no", map[string]string{"x": "2"}) && !a.NoLabels("no", map[string]string{"x": "1"}),
		"accepted":      a.Check("name", "label", "no", "dangling", "bad") == nil,
		"has":           a.Has("name") && !a.Has("driver"),
	} {
		if !ok {
			t.Error(name)
		}
	}
	if err := a.Check("name"); err == nil || err.Error() != "invalid filter 'bad'" {
		t.Errorf("got %v", err)
	}
	if v, err := a.Bool("dangling", false); err != nil || !v {
		t.Errorf("got %v, %v", v, err)
	}
	if v, err := a.Bool("other", true); err != nil || !v {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := a.Bool("bad", false); err == nil || err.Error() != "invalid filter 'bad=[true 0]'" {
		t.Errorf("got %v", err)
	}
}
