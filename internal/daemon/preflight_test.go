package daemon

import (
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/container"
)

func TestPreflightFor(t *testing.T) {
	label := func(v string) map[string]string { return map[string]string{labelPreflight: v} }
	for name, tt := range map[string]struct {
		u    container.VolumeUser
		want string
		sure bool
	}{
		"nothing":             {container.VolumeUser{Image: "nginx"}, "", true},
		"an image":            {container.VolumeUser{Image: "postgres:17"}, "postgres", true},
		"mysql is as mariadb": {container.VolumeUser{Image: "mysql"}, "mariadb", true},
		"a port alone":        {container.VolumeUser{Ports: []string{"6379/tcp"}}, "redis", false},
		"a label":             {container.VolumeUser{Labels: label("sqlite")}, "sqlite", true},
		"a label says no":     {container.VolumeUser{Image: "postgres", Labels: label("off")}, "", false},
		"an unknown label":    {container.VolumeUser{Image: "postgres", Labels: label("oracle")}, "", false},
	} {
		if _, got, sure := preflightFor(tt.u); got != tt.want || sure != tt.sure {
			t.Errorf("%s: got %q, %v", name, got, sure)
		}
	}
}

func TestDataPlaces(t *testing.T) {
	at := func(target, volume string) container.Place { return container.Place{Target: target, Volume: volume} }
	for name, tt := range map[string]struct {
		places []container.Place
		want   string
	}{
		"where its data is":            {[]container.Place{at("/var/lib/postgresql/data", "v"), at("/backup", "w"), at("/docker-entrypoint-initdb.d", "")}, "/var/lib/postgresql/data"},
		"a bind mount there":           {[]container.Place{at("/var/lib/postgresql", ""), at("/backup", "w")}, "/var/lib/postgresql"},
		"by its variable":              {[]container.Place{at("/srv", "v"), at("/x", "w")}, "/srv"},
		"nowhere known: its volumes":   {[]container.Place{at("/a", "v"), at("/b", "")}, "/a"},
		"a bind mount that may be any": {[]container.Place{at("/b", "")}, ""},
	} {
		var got []string
		for _, p := range dataPlaces("postgres", []string{"PGDATA=/srv/pg"}, tt.places) {
			got = append(got, p.Target)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
