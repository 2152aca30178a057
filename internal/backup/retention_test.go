package backup

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestRetention(t *testing.T) {
	at := func(day, hour int) time.Time { return time.Date(2026, 3, day, hour, 0, 0, 0, time.Local) }
	scheduled := func(id string, day, hour int) Backup {
		return Backup{ID: id, Why: WhySchedule, Moment: at(day, hour)}
	}
	all := []Backup{
		scheduled("a", 1, 2), // a Sunday
		scheduled("b", 2, 2),
		{ID: "mine", Moment: at(2, 5)},
		scheduled("c", 3, 2),
		scheduled("d", 3, 14),
		scheduled("e", 4, 2),
		scheduled("f", 4, 3),
	}
	all[1].Verified = &Verification{At: at(9, 0)}
	all[4].Verified = &Verification{At: at(9, 0), Problems: nil}
	all[4].Verified.Problems = append(all[4].Verified.Problems, struct {
		Path string `json:"path"`
		What string `json:"what"`
	}{"x", "damaged"})
	for keep, want := range map[string]string{
		"":                 "",
		"9":                "",
		"1":                "acde", // b is the newest that is known to be good
		"last=3":           "ac",
		"daily=2":          "ace",
		"daily=9":          "ce",
		"hourly=2":         "acd",
		"weekly=2":         "cde",
		"monthly=5":        "acde",
		"last=1, daily=3":  "ace",
		"yearly=1,last=2":  "acd",
		"hourly=1,daily=1": "acde",
	} {
		k, err := ParseKeep(keep)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, b := range k.Drop(all) {
			got.WriteString(b.ID)
		}
		if got.String() != want {
			t.Errorf("keep %q drops %q, want %q", keep, got.String(), want)
		}
	}
	for _, bad := range []string{"0", "-1", "last", "last=x", "dayly=3", "last=3;daily=2", "99999"} {
		if _, err := ParseKeep(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("keep %q: %v", bad, err)
		}
	}
}

func TestWhenAVolumeIsDue(t *testing.T) {
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 3, day, hour, minute, 0, 0, time.Local) }
	for _, c := range []struct {
		schedule string
		st       State
		want     time.Time
	}{
		{"@daily", State{Since: at(1, 12, 0)}, at(2, 0, 0)},
		{"30 4 * * *", State{Since: at(1, 12, 0), LastBackup: at(2, 4, 30)}, at(3, 4, 30)},
		// Three were missed: the one that is due is in the past, and is made once.
		{"@daily", State{Since: at(1, 12, 0), LastBackup: at(2, 0, 0)}, at(3, 0, 0)},
		{"@daily", State{Since: at(1, 12, 0), LastBackup: at(6, 9, 0)}, at(7, 0, 0)},
		{"@daily", State{Since: at(1, 12, 0), LastTry: at(2, 0, 0), Failures: 1}, at(2, 0, 10)},
		{"@daily", State{Since: at(1, 12, 0), LastTry: at(2, 0, 0), Failures: 3}, at(2, 0, 40)},
		{"@daily", State{Since: at(1, 12, 0), LastTry: at(2, 0, 0), Failures: 40}, at(2, 6, 0)},
		{"@hourly", State{Since: at(1, 12, 0), LastTry: at(2, 0, 0), Failures: 40}, at(2, 1, 0)},
	} {
		p, ok := planOf(Spec{Name: "v", Labels: map[string]string{LabelSchedule: c.schedule}}, false, Settings{})
		if !ok || p.Bad != "" {
			t.Fatalf("%s: %v %s", c.schedule, ok, p.Bad)
		}
		if got := p.next(c.st); !got.Equal(c.want) {
			t.Errorf("%s, %+v: next at %s, want %s", c.schedule, c.st, got, c.want)
		}
	}
}

func TestPlansComeFromLabelsAndSettings(t *testing.T) {
	d := Settings{Schedule: "@daily", Keep: "7", Repository: "nas"}
	label := func(kv ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	for _, c := range []struct {
		labels    map[string]string
		anonymous bool
		settings  Settings
		want      string // schedule, what is kept last; or why it is bad
	}{
		{nil, false, Settings{}, "none"},
		{nil, false, d, "@daily 7"},
		{nil, true, d, "none"},
		{label(LabelSchedule, "@weekly"), true, d, "@weekly 7"},
		{label(LabelSchedule, "none"), false, d, "none"},
		{label(LabelSchedule, "@hourly", LabelKeep, "last=3"), false, d, "@hourly 3"},
		{label(LabelSchedule, "now and then"), false, d, "bad schedule"},
		{label(LabelKeep, "much"), false, d, "bad keep"},
	} {
		p, ok := planOf(Spec{Name: "v", Labels: c.labels}, c.anonymous, c.settings)
		got := "none"
		switch {
		case ok && p.Bad != "":
			got = "bad " + strings.Fields(p.Bad)[0]
		case ok:
			got = p.Schedule + " " + string(rune('0'+p.Keep.Last))
		}
		if got != c.want {
			t.Errorf("%v, %v: %q (%s), want %q", c.labels, c.settings, got, p.Bad, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	pw := SecretPassword
	for _, c := range []struct {
		where   string
		options map[string]string
		secrets []string
		want    string // kind host path; or a part of the error
	}{
		{"/srv/backups/", nil, []string{pw}, "file  /srv/backups"},
		{"file:///srv/backups", nil, []string{pw}, "file  /srv/backups"},
		{"s3://bucket/a/b/", map[string]string{"endpoint": "h:9000"}, []string{pw, SecretAccessKey, SecretSecretKey}, "s3 bucket a/b"},
		{"sftp://me@host:2222/srv/b", nil, []string{pw, SecretSSHKey}, "sftp host:2222 /srv/b"},
		{"azure://account/container/x", nil, []string{pw, SecretAccountKey}, "azure account container/x"},
		{"gs://bucket", nil, []string{pw, SecretCredentials}, "gs bucket "},
		{"/", nil, []string{pw}, "absolute path"},
		{"relative", nil, []string{pw}, "absolute path"},
		{"/srv", nil, nil, "a password is needed"},
		{"ftp://x/y", nil, []string{pw}, "of no kind that is known"},
		{"s3://bucket", nil, []string{pw}, "need one of the secrets"},
		{"s3://bucket", map[string]string{"sekret": "x"}, []string{pw, SecretSecretKey}, `no option "sekret"`},
		{"sftp://me:hunter2@host/x", nil, []string{pw, SecretSSHKey}, "does not belong into the URL"},
		{"sftp://host/x", nil, []string{pw, SecretSSHKey}, "want sftp://USER@"},
		{"/srv", nil, []string{pw, SecretSSHKey}, "need no secret"},
	} {
		p, err := ParsePlace(c.where, c.options, c.secrets)
		got := string(p.Kind) + " " + p.Host + " " + p.Path
		if err != nil {
			got = err.Error()
			if !errdefs.IsInvalidArgument(err) || strings.Contains(got, "hunter2") {
				t.Errorf("%s: %v", c.where, err)
			}
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", c.where, got, c.want)
		}
	}
}
