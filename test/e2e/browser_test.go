package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"holdfast.dev/holdfast/internal/testkit"
)

// browser is headless Chromium with an empty profile.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := testkit.RequireProgram(t, "chromium")
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir())}
	// Without the last four it looks for its maker's services at every start.
	for _, f := range []string{
		"headless", "no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars",
		"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync",
	} {
		opts = append(opts, chromedp.Flag(f, true))
	}
	ctx, cancelTime := context.WithTimeout(t.Context(), 3*time.Minute)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		cancel()
		cancelAllocator()
		cancelTime()
	})
	// The browser lives as long as the context of the first call.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return ctx
}

// do runs one action within a limit.
func do[T any](t *testing.T, ctx context.Context, what string, action chromedp.Action[T]) T {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	v, err := chromedp.Run(limited, action)
	if err != nil {
		html, htmlErr := chromedp.Run(ctx, chromedp.OuterHTML(chromedp.CSS("body")))
		t.Fatalf("browser: %s: %v\n%s %v", what, err, html, htmlErr)
	}
	return v
}

func withoutScripts(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
	_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	return chromedp.Void{}, err
}

// addByForm fills the page's form in as a person does, with scripts turned off,
// and returns what the page then says.
func addByForm(t *testing.T, ctx context.Context, page, name, price string) (note, row string) {
	t.Helper()
	do(t, ctx, "add "+name, chromedp.Steps(
		withoutScripts,
		chromedp.Navigate(page),
		chromedp.SendKeys(chromedp.CSS("#name"), name),
		chromedp.SendKeys(chromedp.CSS("#price"), price),
		chromedp.Click(chromedp.CSS("button[type=submit]")),
		chromedp.WaitVisible(chromedp.CSS("#added")),
	))
	note = do(t, ctx, "read the note", chromedp.Text(chromedp.CSS("#added")))
	row = do(t, ctx, "read the first row", chromedp.Text(chromedp.CSS("li[data-id]")))
	return note, row
}

// screenshot keeps a picture of the page at a width among the test's artifacts
// and fails if the page is wider than the screen.
func screenshot(t *testing.T, ctx context.Context, name string, width, height int64, phone bool) {
	t.Helper()
	var opts []chromedp.EmulateViewportOption
	if phone {
		opts = append(opts, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	do(t, ctx, "screen of "+name, chromedp.EmulateViewport(width, height, opts...))
	got := do(t, ctx, "measure", chromedp.Evaluate[[]int64](`[document.documentElement.scrollWidth, window.innerWidth]`))
	if got[0] > width || got[1] != width {
		t.Errorf("at %d pixels the page is %d wide and the screen %d", width, got[0], got[1])
	}
	picture := do(t, ctx, "screenshot "+name, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(testkit.ArtifactDir(t), name+".png"), picture, 0o644); err != nil {
		t.Error(err)
	}
}
