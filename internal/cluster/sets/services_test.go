package sets

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/stateful"
	"holdfast.dev/holdfast/internal/stateful/member"
)

func TestReadWish(t *testing.T) {
	labels := func(kv ...string) map[string]string {
		out := map[string]string{LabelProfile: "postgres"}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	for _, c := range []struct {
		labels  map[string]string
		members int
		want    Wish
		err     string
	}{
		{labels(), 3, Wish{Mode: stateful.ModeOn, Port: 5432, Members: 3}, ""},
		{labels(LabelSync, "strict", LabelPort, "5433", "other", "x"), 3, Wish{Mode: stateful.ModeStrict, Port: 5433, Members: 3}, ""},
		{labels(LabelProfile, "oracle"), 3, Wish{}, "no profile"},
		{labels(LabelSync, "maybe"), 3, Wish{}, "may be on, off or strict"},
		{labels(LabelPort, "70000"), 3, Wish{}, "no port"},
		{labels("holdfast.stateful.of", "x"), 3, Wish{}, "is not known"},
		{labels(), 0, Wish{}, "at least one member"},
		{labels(), 10, Wish{}, "at most nine"},
		{labels(LabelSync, "strict"), 2, Wish{}, "would stop writing"},
	} {
		got, err := ReadWish(c.labels, c.members)
		if c.err == "" && (err != nil || got != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%v of %d: %+v %v", c.labels, c.members, got, err)
		}
	}
}

// A home is chosen once, and no node has two members.
func TestHomes(t *testing.T) {
	for _, c := range []struct {
		name    string
		n       int
		homes   map[string]string
		nodes   []string
		want    map[string]string
		missing int
	}{
		{"new", 3, nil, []string{"a", "b", "c"}, map[string]string{"db-1": "a", "db-2": "b", "db-3": "c"}, 0},
		{"too few nodes", 3, nil, []string{"a", "b"}, map[string]string{"db-1": "a", "db-2": "b"}, 1},
		{"a node came", 3, map[string]string{"db-1": "b", "db-2": "a"}, []string{"a", "b", "c"}, map[string]string{"db-1": "b", "db-2": "a", "db-3": "c"}, 0},
		{"a home is down", 2, map[string]string{"db-1": "a", "db-2": "b"}, []string{"b", "c"}, map[string]string{"db-1": "a", "db-2": "b"}, 0},
		{"one more", 2, map[string]string{"db-1": "a"}, []string{"a", "b"}, map[string]string{"db-1": "a", "db-2": "b"}, 0},
	} {
		got, missing := Homes("db", c.n, c.homes, c.nodes)
		if !maps.Equal(got, c.want) || missing != c.missing {
			t.Errorf("%s: %v, %d missing", c.name, got, missing)
		}
	}
}

func TestMemberSpec(t *testing.T) {
	set := &api.Service{ID: "set", Spec: api.ServiceSpec{
		Annotations: api.Annotations{Name: "db", Labels: map[string]string{LabelProfile: "postgres"}},
		Mode:        &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{}},
		Task: api.TaskSpec{
			Placement: &api.Placement{Constraints: []string{"node.labels.disk==fast"}},
			Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{
				Image: "postgres", Args: []string{"postgres", "-c", "x=1"}, Env: []string{"A=b"},
				Mounts: []api.Mount{{Type: api.MountTypeVolume, Source: "data", Target: "/d"}, {Type: api.MountTypeBind, Source: "/etc/x", Target: "/x"}},
			}},
		},
	}}
	spec := memberSpec(set, Wish{Port: 5433}, "db-2", "node2")
	c := spec.Task.GetContainer()
	switch {
	case spec.Annotations.Name != "db-2" || spec.Annotations.Labels[LabelOf] != "set" || IsSet(spec.Annotations.Labels):
		t.Errorf("annotations %+v", spec.Annotations)
	case !slices.Equal(spec.Task.Placement.Constraints, []string{"node.id==node2"}):
		t.Errorf("placement %v", spec.Task.Placement)
	case spec.GetReplicated().Replicas != 1:
		t.Errorf("mode %v", spec.Mode)
	case !slices.Equal(c.Command, []string{member.Program}) || !slices.Equal(c.Args, []string{"postgres", "-c", "x=1"}):
		t.Errorf("runs %v %v", c.Command, c.Args)
	case c.Mounts[0].Source != "data-2" || c.Mounts[1].Source != "/etc/x":
		t.Errorf("mounts %v", c.Mounts)
	case !slices.Equal(c.Env, []string{"A=b", member.EnvMember + "=db-2", member.EnvPort + "=5433", member.EnvSet + "=set"}):
		t.Errorf("environment %v", c.Env)
	}
	if orig := set.Spec.Task.GetContainer(); len(orig.Command) > 0 || orig.Mounts[0].Source != "data" {
		t.Error("the set's own service was changed")
	}
}
