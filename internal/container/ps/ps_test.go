package ps

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	for args, bad := range map[string]bool{"": false, "aux": false, "-o pid,cmd": false, "-eo user=PIDs": true, "-o pid=PID": false, "-o ppid= PID": true} {
		if err := Validate(" " + args); (err != nil) != bad {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestParse(t *testing.T) {
	out := "UID   PID CMD\nroot  1   init  with args\nroot  2   other\nroot  -   thread of 2\nme    3   sh\nme    -   thread of 3\n"
	titles, rows, err := parse(out, []int{1, 3})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(titles, "|")
	for _, r := range rows {
		got += "\n" + strings.Join(r, "|")
	}
	want := "UID|PID|CMD\nroot|1|init with args\nme|3|sh\nme|-|thread of 3"
	if got != want {
		t.Errorf("got %s", got)
	}
	if _, _, err := parse("UID CMD\n", nil); err == nil || err.Error() != "Couldn't find PID field in ps output" {
		t.Errorf("got %v", err)
	}
	if _, _, err := parse("PID\nx\n", nil); err == nil || !strings.HasPrefix(err.Error(), "Unexpected pid 'x': ") {
		t.Errorf("got %v", err)
	}
}

func TestReadMadeUpProc(t *testing.T) {
	proc := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	boot := now.Add(-100 * time.Second)
	put("stat", "cpu 1\nbtime "+strconv.FormatInt(boot.Unix(), 10)+"\nx 1\n")
	// 3661.00 s of CPU in a life of 50 s cannot be; 25 s can.
	put("7/stat", "7 (a) b (c) S 3 7 7 34816 7 0 0 0 0 0 2000 500 0 0 20 0 1 0 5000 0")
	put("7/cmdline", "sleep\x00 10\x00")
	put("8/stat", "8 (kworker) Z 2 0 0 0 -1 0 0 0 0 0 366100 0 0 0 20 0 1 0 0 0")
	put("8/cmdline", "")
	_, rows, err := read(proc, []int{7, 8, 9}, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 {
		t.Fatalf("got %q", rows)
	}
	if r := rows[0]; r[1] != "7" || r[2] != "3" || (r[3] != "50" && r[3] != "49") || r[5] != "pts/0" || r[6] != "00:00:25" || r[7] != "sleep  10" {
		t.Errorf("got %q", r)
	}
	if r := rows[1]; r[5] != "?" || r[6] != "01:01:01" || r[7] != "[kworker] <defunct>" {
		t.Errorf("got %q", r)
	}
}

func TestOursAndTheProgramAgree(t *testing.T) {
	pids := []int{os.Getpid()}
	titles, rows, err := List(context.Background(), "", pids, time.Now())
	if err != nil || len(rows) != 1 {
		t.Fatalf("%v %v", rows, err)
	}
	theirTitles, theirs, err := run(context.Background(), "-ef", pids)
	if err != nil {
		t.Skipf("needs ps: %v", err)
	}
	if !slices.Equal(titles, theirTitles) || len(theirs) != 1 {
		t.Fatalf("titles %q, %q", titles, theirTitles)
	}
	for i, col := range titles {
		if col == "C" || col == "TIME" || col == "STIME" {
			continue
		}
		if strings.Join(strings.Fields(rows[0][i]), " ") != theirs[0][i] {
			t.Errorf("%s: ours %q, theirs %q", col, rows[0][i], theirs[0][i])
		}
	}
}
