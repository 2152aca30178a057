package catalog

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func env(kv ...string) func(string) (string, bool) {
	m := map[string]string{}
	for _, e := range kv {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func TestSettingsAreReadAsTheComposeFileGivesThem(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		want Settings
	}{
		"as in the notes": {
			[]string{"ConnectionStrings:StoreContext=Host=db-master;Database=store;"},
			Settings{Host: "db-master", Port: 5432, Database: "store", User: "postgres", Password: "postgres", ReadHosts: []string{"db-slave"}},
		},
		"user and password from the environment": {
			[]string{"ConnectionStrings:StoreContext=Host=db-master;", "POSTGRES_USER=u", "POSTGRES_PASSWORD=p;=", "POSTGRES_DB=shop"},
			Settings{Host: "db-master", Port: 5432, Database: "shop", User: "u", Password: "p;=", ReadHosts: []string{"db-slave"}},
		},
		"everything in the connection string": {
			[]string{"ConnectionStrings__StoreContext= Server = h ; port=6000; DATABASE=d; User Id=u; Password=a=b", "STORE_READ_HOSTS=r1, r2,", "POSTGRES_PASSWORD=no"},
			Settings{Host: "h", Port: 6000, Database: "d", User: "u", Password: "a=b", ReadHosts: []string{"r1", "r2"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := SettingsFrom(env(c.env...))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestBadSettingsAreExplained(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "is not set",
		"Database=store;":            "no Host",
		"Host=h;secret":              "not Key=Value",
		"Host=h;Port=0":              `port "0"`,
		"Host=h;Port=x":              `port "x"`,
		"Host=h;Pooling=true":        `unknown key "Pooling"`,
		"Host=h;=x":                  "not Key=Value",
		"Host=h;Port=99999999999999": "is not a number",
	} {
		_, err := SettingsFrom(env(ContextVar + "=" + text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to say %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats what may be a password: %v", text, err)
		}
	}
}

func TestTheAddressHoldsAnyPassword(t *testing.T) {
	s := Settings{Host: "h", Port: 5432, Database: "a/b", User: "u@x", Password: "p:/@?#%"}
	p, err := pool(t.Context(), s, s.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := p.Config().ConnConfig
	if c.User != s.User || c.Password != s.Password || c.Host != s.Host || c.Port != s.Port || c.Database != s.Database {
		t.Errorf("got user %q password %q host %q port %d database %q", c.User, c.Password, c.Host, c.Port, c.Database)
	}
}

func TestPricesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "12": 1200, "12.5": 1250, " 12,50 ": 1250, ".5": 50, "1000000": 100000000, "007": 700, "3.": 300} {
		if got, err := ParsePrice(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".", "-1", "+1", "1.234", "1,2,3", "1e3", "x", "1000000.01", "99999999999999999999", "１"} {
		var in *InputError
		if got, err := ParsePrice(text); !errors.As(err, &in) {
			t.Errorf("%q: got %d, %v, want an input error", text, got, err)
		}
	}
}

func TestPricesAreShownWithCents(t *testing.T) {
	for cents, want := range map[int64]string{0: "0.00", 5: "0.05", 1250: "12.50", 100000000: "1000000.00"} {
		if got := (Product{Cents: cents}).Price(); got != want {
			t.Errorf("%d: got %s, want %s", cents, got, want)
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	if got, err := CheckName("  Stuhl, grün "); err != nil || got != "Stuhl, grün" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := CheckName(strings.Repeat("ü", 100)); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", " \t", strings.Repeat("a", 101), "a\x00b", "\xff"} {
		var in *InputError
		if _, err := CheckName(name); !errors.As(err, &in) {
			t.Errorf("%q: got %v, want an input error", name, err)
		}
	}
}
