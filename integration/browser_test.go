package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/examples/chromium"
)

// tab is a page in a real browser.
type tab struct {
	*chromium.Tab
	t *testing.T

	mu       sync.Mutex
	problems []string // that the page wrote to its console
}

// openTab starts a browser of its own for the test.
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
	b := &tab{t: t}
	ctx, cancel := b.limit()
	defer cancel()
	b.Tab, err = chromium.Open(ctx, program, dir, func(problem string) {
		b.mu.Lock()
		b.problems = append(b.problems, problem)
		b.mu.Unlock()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		waitFor(t, "the files of the browser to be gone", func() bool { return os.RemoveAll(dir) == nil }) // its processes may write some more
	})
	b.must(b.Size(ctx, 1440, 900))
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

// limit is how long the browser may take for anything.
func (b *tab) limit() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 60*time.Second)
}

func (b *tab) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// open goes to a page, with these header fields in every request.
func (b *tab) open(url string, header map[string]any) {
	b.t.Helper()
	ctx, cancel := b.limit()
	defer cancel()
	b.must(b.Header(ctx, header))
	b.must(b.Navigate(ctx, url))
}

// reload loads the page again.
func (b *tab) reload() {
	b.t.Helper()
	ctx, cancel := b.limit()
	defer cancel()
	b.must(b.Reload(ctx))
}

// look asks for a different screen.
func (b *tab) look(width, height int64, theme string) {
	b.t.Helper()
	ctx, cancel := b.limit()
	defer cancel()
	b.must(b.Size(ctx, width, height))
	features := []map[string]string{{"name": "prefers-color-scheme", "value": theme}}
	b.must(b.Call(ctx, "Emulation.setEmulatedMedia", map[string]any{"features": features}, nil))
}

// eval evaluates JavaScript in the page.
func eval[T any](b *tab, script string) T {
	b.t.Helper()
	ctx, cancel := b.limit()
	defer cancel()
	var value T
	if err := b.Eval(ctx, script, &value); err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return value
}

// text is the text of the first element that the selector finds, "" if there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector))
}

// await polls until a condition holds in the page.
func (b *tab) await(what, condition string) {
	b.t.Helper()
	waitFor(b.t, what, func() bool { return eval[bool](b, "Boolean("+condition+")") })
}

// row is a JavaScript expression for the row of a backend, an empty one while there is none.
func row(backend string) string {
	return fmt.Sprintf(`(document.querySelector('tr[data-backend="%s"]') ?? document.createElement('tr'))`, backend)
}

// click clicks on what can be seen, as a script does: at whatever place it is.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.await(selector+" to be seen", fmt.Sprintf("document.querySelector(%q)?.checkVisibility()", selector))
	eval[bool](b, fmt.Sprintf("(document.querySelector(%q).click(), true)", selector))
}

// picture writes what the page looks like, if somebody asked for pictures.
func (b *tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("BALLAST_PICTURES")
	if dir == "" {
		return
	}
	ctx, cancel := b.limit()
	defer cancel()
	png, err := b.Picture(ctx)
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("%s/%s-%s.png", dir, b.t.Name(), name), png, 0o644)
	}
	if err != nil {
		b.t.Log(err)
	}
}

// checkNames has the browser tell what it tells screen readers: whatever can be used has a name.
func (b *tab) checkNames() {
	b.t.Helper()
	ctx, cancel := b.limit()
	defer cancel()
	var tree struct {
		Nodes []struct {
			Ignored          bool
			Role, Name       *struct{ Value any }
			BackendDOMNodeID int
		}
	}
	b.must(b.Call(ctx, "Accessibility.getFullAXTree", nil, &tree))
	checked := 0
	for _, node := range tree.Nodes {
		if node.Ignored || node.Role == nil {
			continue
		}
		switch role := node.Role.Value; role {
		case "button", "link", "searchbox", "textbox", "combobox", "spinbutton", "dialog", "image", "table":
			checked++
			if node.Name == nil || node.Name.Value == "" {
				b.t.Errorf("a screen reader meets a %v without a name: node %d", role, node.BackendDOMNodeID)
			}
		}
	}
	if checked == 0 {
		b.t.Error("the page has nothing that can be used")
	}
}

// checkFits checks that nothing is wider than the screen.
func (b *tab) checkFits() {
	b.t.Helper()
	if over := eval[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		b.t.Errorf("the page is %d pixels wider than the screen", over)
	}
}

// TestBrowserTells: what goes wrong in a page does not pass unseen.
func TestBrowserTells(t *testing.T) {
	b := openTab(t)
	told := func() []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Clone(b.problems)
	}
	for i, script := range []string{
		"(console.error('a wrong turn'), true)", "(setTimeout(() => { throw new Error('a wrong turn') }), true)",
		"(Promise.reject(new Error('a wrong turn')), true)",
	} {
		eval[bool](b, script)
		waitFor(t, "the browser to tell of "+script, func() bool { return len(told()) > i })
	}
	for _, problem := range told() {
		if !strings.Contains(problem, "a wrong turn") {
			t.Errorf("the browser tells of %s", problem)
		}
	}
	var value any
	ctx, cancel := b.limit()
	defer cancel()
	if err := b.Eval(ctx, "nothing.like.it", &value); err == nil {
		t.Errorf("a script that fails has the value %v", value)
	}
	if err := b.Navigate(ctx, "http://"+freeAddress(t)); err == nil {
		t.Error("the browser shows what nobody serves")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = nil
}
