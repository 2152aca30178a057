package e2e

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"holdfast.dev/holdfast/internal/testkit"
)

// dashboard runs `holdfast dashboard` and returns the address it prints.
func dashboard(t *testing.T, d *testkit.Daemon) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := d.Command(ctx, "holdfast", "dashboard")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("holdfast dashboard printed %q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// TestDashboard looks at the storage page as a person does: what takes the space,
// on a desk and on a phone; it removes what is chosen, without scripts and without
// a mouse; and with scripts it follows what happens.
func TestDashboard(t *testing.T) {
	d := testkit.New(t, testkit.Options{Config: map[string]any{"dashboard-addr": "127.0.0.1:2390"}})
	d.Image("busybox")
	d.Docker("run", "--rm", "-v", "gone:/d", "busybox", "sh", "-c", "head -c 1000000 /dev/zero > /d/file")
	d.Docker("volume", "rm", "gone")
	d.Docker("run", "--name", "ended", "-v", "kept:/d", "busybox", "sh", "-c", "head -c 3000000 /dev/zero > /d/file; head -c 1000000 /dev/zero > /file; echo new > /etc/passwd; rm /bin/sh")
	d.Docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
	page := dashboard(t, d)
	ctx := browser(t)

	do(t, ctx, "open the page", chromedp.Steps(chromedp.Navigate(page), chromedp.WaitVisible(chromedp.CSS("svg .volumes .tile"))))
	if at := do(t, ctx, "read the address", chromedp.Evaluate[string]("location.href")); strings.Contains(at, "token") {
		t.Errorf("the token stays in the address: %s", at)
	}
	for _, size := range []struct {
		name          string
		width, height int64
		phone         bool
	}{{"desk", 1280, 900, false}, {"phone", 390, 844, true}} {
		screenshot(t, ctx, "dashboard-"+size.name, size.width, size.height, size.phone)
	}

	// Live: a volume that is made while the page is open shows up.
	d.Docker("run", "--rm", "-v", "fresh:/d", "busybox", "sh", "-c", "head -c 2000000 /dev/zero > /d/file")
	d.Eventually(settle, "the page shows the new volume", func() (bool, string) {
		text := do(t, ctx, "read the page", chromedp.Text(chromedp.CSS("main")))
		return strings.Contains(text, "fresh"), text
	})

	// What was removed can be seen, and who grew.
	d.Eventually(settle, "the page shows the removed volume and the growth of the new one", func() (bool, string) {
		rows := do(t, ctx, "read the tables", chromedp.Evaluate[string](`[...document.querySelectorAll("tr")].map(r => r.innerText).join("\n")`))
		return strings.Contains(rows, "\ngone\t") && strings.Contains(rows, "\nvolume fresh\t") && strings.Contains(rows, "Kind\tThen\tNow\tChange\n"), rows
	})
	do(t, ctx, "see the chart", chromedp.WaitVisible(chromedp.CSS("svg.growth path.volumes")))

	// A container's page says which layer a path comes from.
	do(t, ctx, "search a path", chromedp.Steps(
		chromedp.Click(chromedp.CSS("a[href^='container/']")), // the one that wrote most
		chromedp.WaitVisible(chromedp.CSS("#path")),
		chromedp.SendKeys(chromedp.CSS("#path"), "/etc/passwd"),
		chromedp.Submit(chromedp.CSS("form")),
		chromedp.WaitVisible(chromedp.CSS(".union .seen")),
	))
	layers := do(t, ctx, "read the layers", chromedp.Evaluate[string](`[...document.querySelectorAll(".union .mark")].map(m => m.innerText).join("\n")`))
	lines := strings.Split(layers, "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "a file of 4B: this is what the container sees") || !strings.Contains(lines[1], "a file, which layer 1 hides") {
		t.Errorf("/etc/passwd is on these layers: %q", layers)
	}
	titles := do(t, ctx, "read the titles", chromedp.Evaluate[string](`[...document.querySelectorAll(".union b")].map(m => m.innerText).join(", ")`))
	if want := "1. what the container wrote, 2. the engine's places to mount on, 3. layer 0"; titles != want {
		t.Errorf("the layers are %q, want %q", titles, want)
	}
	screenshot(t, ctx, "dashboard-container", 390, 844, true)
	do(t, ctx, "search a removed path", chromedp.Steps(
		chromedp.Evaluate[chromedp.Void]("location.search = '?path=/bin/sh'"),
		chromedp.WaitVisible(chromedp.CSS(".union .hidden .mark")),
	))
	if seen := do(t, ctx, "read the layers", chromedp.Evaluate[int](`document.querySelectorAll(".union .seen").length`)); seen != 0 {
		t.Errorf("a removed file is on %d layers that the container sees", seen)
	}

	// The daemon's own port asks for the token that is in its file.
	port := "http://" + d.Forward("127.0.0.1:2390") + "/"
	token, err := os.ReadFile(d.Path(filepath.Join(d.Root(), "dashboard-token")))
	if err != nil {
		t.Fatal(err)
	}
	do(t, ctx, "open the port without the token", chromedp.Steps(chromedp.Navigate(port), chromedp.WaitVisible(chromedp.CSS("input[name=token]"))))
	do(t, ctx, "give the token", chromedp.Steps(
		chromedp.SendKeys(chromedp.CSS("input[name=token]"), strings.TrimSpace(string(token))),
		chromedp.Submit(chromedp.CSS("form")),
		chromedp.WaitVisible(chromedp.CSS("svg .volumes .tile")),
	))
	if at := do(t, ctx, "read the address", chromedp.Evaluate[string]("location.href")); at != port {
		t.Errorf("the page is at %s", at)
	}
	do(t, ctx, "back to the first page", chromedp.Steps(chromedp.Navigate(page), chromedp.WaitVisible(chromedp.CSS("svg .volumes .tile"))))

	// Without scripts, by the keyboard alone: only what is chosen goes.
	ref := do(t, ctx, "find the container in the plan", chromedp.Evaluate[string](
		`[...document.querySelectorAll("input[name=item]")].find(i => i.value.startsWith("container/") && i.value.endsWith("/ended")).id`))
	do(t, ctx, "remove it", chromedp.Steps(
		withoutScripts,
		chromedp.Focus(chromedp.CSS("#"+ref)),
		chromedp.SendKeys(chromedp.CSS("#"+ref), " "),
		chromedp.Submit(chromedp.CSS("form")),
		chromedp.WaitVisible(chromedp.CSS(".done")),
	))
	if note := do(t, ctx, "read what was done", chromedp.Text(chromedp.CSS(".done"))); !strings.HasPrefix(note, "Removed 1") {
		t.Errorf("the page says %q", note)
	}
	if got := d.Docker("ps", "-a", "--format", "{{.Names}}"); got != "busy" {
		t.Errorf("containers now: %q", got)
	}
	if got := d.Docker("volume", "ls", "-q"); got != "fresh\nkept" {
		t.Errorf("volumes now: %q", got)
	}
}
