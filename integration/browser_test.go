package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// tab is a page in a real browser.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // errors in the page's console
}

// openTab starts a browser for the test.
func openTab(t *testing.T) *tab {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		t.Fatal("no Chromium; .ci/deps installs it")
	}
	dir, err := os.MkdirTemp("", "ballast-browser")
	if err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(dir),
		chromedp.Env("TMPDIR="+dir), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		closeTab()
		stop()
		waitFor(t, "the files of the browser to be gone", func() bool { return os.RemoveAll(dir) == nil }) // its processes may still write
	})
	// The first action starts the browser, which runs as long as the context of that action.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	b := &tab{t: t, ctx: ctx}
	b.do(chromedp.EmulateViewport(1440, 900))
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			// Tests restart servers, so a failed connection is not a problem.
			if m.IsException() || m.Type == chromedp.ConsoleError && m.Source != "network" {
				b.mu.Lock()
				b.problems = append(b.problems, m.String())
				b.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.problems) > 0 {
			t.Errorf("the page's console: %s", strings.Join(b.problems, "\n"))
		}
		if t.Failed() {
			b.picture("failed")
		}
	})
	return b
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// open goes to a page, with these header fields in every request.
func (b *tab) open(url string, header map[string]any) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: header}); err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Navigate(url))
}

// look changes the size and the theme of the screen.
func (b *tab) look(width, height int64, theme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// eval evaluates JavaScript in the page.
func eval[T any](b *tab, script string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return value
}

// text returns the text of the first element that matches the selector, "" if there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector))
}

// await polls until a condition holds in the page.
func (b *tab) await(what, condition string) {
	b.t.Helper()
	waitFor(b.t, what, func() bool { return eval[bool](b, "Boolean("+condition+")") })
}

// row returns a JavaScript expression for the row of a backend, or for an empty row if there is none.
func row(backend string) string {
	return fmt.Sprintf(`(document.querySelector('tr[data-backend="%s"]') ?? document.createElement('tr'))`, backend)
}

// click clicks on a visible element, wherever it is on the page.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.await(selector+" to be seen", fmt.Sprintf("document.querySelector(%q)?.checkVisibility()", selector))
	eval[bool](b, fmt.Sprintf("(document.querySelector(%q).click(), true)", selector))
}

// picture saves a screenshot of the page if BALLAST_PICTURES is set.
func (b *tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("BALLAST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("%s/%s-%s.png", dir, b.t.Name(), name), png, 0o644)
	}
	if err != nil {
		b.t.Log(err)
	}
}

// checkNames checks that all controls have a name in the browser's accessibility tree, which screen readers use.
func (b *tab) checkNames() {
	b.t.Helper()
	tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		b.t.Fatal(err)
	}
	checked := 0
	for _, node := range tree.Nodes {
		if node.Ignored || node.Role == nil {
			continue
		}
		switch role := string(node.Role.Value); strings.Trim(role, `"`) {
		case "button", "link", "searchbox", "textbox", "combobox", "spinbutton", "dialog", "image", "table":
			checked++
			if node.Name == nil || strings.Trim(string(node.Name.Value), `"`) == "" {
				b.t.Errorf("a screen reader meets a %s without a name: node %d", role, node.BackendDOMNodeID)
			}
		}
	}
	if checked == 0 {
		b.t.Error("the page has no controls")
	}
}

// checkFits checks that the page is not wider than the screen.
func (b *tab) checkFits() {
	b.t.Helper()
	if over := eval[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		b.t.Errorf("the page is %d pixels wider than the screen", over)
	}
}
