package dashboard

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
)

// ask sends a request to the dashboard as if it were mounted at the request's directory.
func ask(d *Dashboard, r *http.Request, v Visit) *httptest.ResponseRecorder {
	_, v.File = path.Split(r.URL.Path)
	if v.Path == "" {
		v.Path = r.URL.Path
	}
	w := httptest.NewRecorder()
	d.Serve(w, r, v)
	return w
}

func TestPaths(t *testing.T) {
	d := New(newSource())
	tests := []struct {
		method, target string
		original       string // path before a rewrite, if there was one
		status         int
		want           string // Content-Type, or Location
	}{
		{"GET", "/", "", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", "", 200, "text/html; charset=utf-8"},
		{"GET", "/a/b/", "", 200, "text/html; charset=utf-8"},
		{"GET", "/a/b", "", 308, "./b/"},
		{"GET", "/a/b?x=1", "", 308, "./b/?x=1"},
		{"GET", "/a/b:c", "", 308, "./b:c/"},
		{"GET", "/a/b%20c", "", 308, "./b%20c/"},
		{"GET", "/", "/lb", 308, "./lb/"},
		{"GET", "/", "/lb/", 200, "text/html; charset=utf-8"},
		{"GET", "/main.js", "/lb/main.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/a/base.css", "", 200, "text/css; charset=utf-8"},
		{"GET", "/icon-ok.svg", "", 200, "image/svg+xml"},
		{"GET", "/state", "", 200, "application/json"},
		{"GET", "/a/history?pool=web", "/lb/history", 200, "application/json"},
		{"GET", "/history?pool=web&format=csv", "", 200, "text/csv; charset=utf-8"},
		{"GET", "/a/explain?pool=web&backend=b", "", 200, "application/json"},
		{"GET", "/uPlot-license.txt", "", 200, "text/plain; charset=utf-8"},
		{"GET", "/favicon.ico", "", 404, "application/json"},
		{"GET", "/index.html", "", 404, "application/json"},
		{"POST", "/", "", 405, "application/json"},
		{"POST", "/state", "", 405, "application/json"},
		{"POST", "/stream", "", 405, "application/json"},
		{"POST", "/history", "", 405, "application/json"},
		{"HEAD", "/history", "", 405, "application/json"},
		{"POST", "/explain", "", 405, "application/json"},
		{"GET", "/change", "", 405, "application/json"},
	}
	for _, tt := range tests {
		w := ask(d, httptest.NewRequest(tt.method, tt.target, nil), Visit{Path: tt.original})
		got := w.Header().Get("Content-Type")
		if tt.status == 308 {
			got = w.Header().Get("Location")
		}
		if w.Code != tt.status || got != tt.want {
			t.Errorf("%s %s (%s): %d %q, want %d %q", tt.method, tt.target, tt.original, w.Code, got, tt.status, tt.want)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: %s = %q, want %q", tt.method, tt.target, name, got, want)
			}
		}
	}
}

// TestPageKeepsToItself looks for content that the policy would block, and for links that would not work under every path.
func TestPageKeepsToItself(t *testing.T) {
	page := string(files[pageFile].content)
	for _, wrong := range []string{"<style", " style=", "javascript:", "onclick", "onload", "://"} {
		if strings.Contains(page, wrong) {
			t.Errorf("the page has %q in it", wrong)
		}
	}
	for _, script := range regexp.MustCompile(`<script[^>]*>([^<]*)`).FindAllStringSubmatch(page, -1) {
		if script[1] != "" {
			t.Errorf("the page has a script in it: %s", script[1])
		}
	}
	link := regexp.MustCompile(`(?:href|src)="([^"#][^"]*)"`)
	for name, f := range files {
		for _, match := range link.FindAllStringSubmatch(string(f.content), -1) {
			if _, ok := files[match[1]]; !ok && match[1] != "state" {
				t.Errorf("%s links to %s, which is not there", name, match[1])
			}
		}
		for _, match := range regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(string(f.content), -1) {
			if _, ok := files[match[1]]; !ok {
				t.Errorf("%s imports %s, which is not there", name, match[1])
			}
		}
		for wrong, why := range map[string]string{
			"innerHTML": "text must not become markup", "outerHTML": "text must not become markup", "insertAdjacentHTML": "text must not become markup",
			"document.write": "text must not become markup", "eval(": "text must not become a program",
			"Date.now": "clocks of browsers go wrong", "new Date()": "clocks of browsers go wrong",
		} {
			if strings.Contains(string(f.content), wrong) {
				t.Errorf("%s uses %s: %s", name, wrong, why)
			}
		}
	}
}

// TestPageHasTheState checks that the page contains the current state, escaped so that it cannot end its script element.
func TestPageHasTheState(t *testing.T) {
	s := newSource()
	s.state = `{"pools":[{"name":"</script><script>alert(1)</script>"}]}`
	page := ask(New(s), httptest.NewRequest(http.MethodGet, "/", nil), Visit{}).Body.String()
	_, first, _ := strings.Cut(page, `<script type="application/json" id="first">`)
	first, _, _ = strings.Cut(first, "</script>")
	var got struct{ Pools []struct{ Name string } }
	if err := json.Unmarshal([]byte(first), &got); err != nil || len(got.Pools) != 1 || got.Pools[0].Name != "</script><script>alert(1)</script>" {
		t.Errorf("the state in the page is %q: %v", first, err)
	}
	if strings.Contains(page, "alert(1)</script>") {
		t.Error("the state has become markup of the page")
	}
	s.fail("storage is away")
	if w := ask(New(s), httptest.NewRequest(http.MethodGet, "/", nil), Visit{}); w.Code != 200 || strings.Contains(w.Body.String(), `id="first"`) {
		t.Errorf("without a state, the page is %d %s", w.Code, w.Body)
	}
}

func TestStateTellsWhatIsWrong(t *testing.T) {
	s := newSource()
	s.fail("storage is away")
	if w := ask(New(s), httptest.NewRequest(http.MethodGet, "/state", nil), Visit{}); w.Code != 500 || !strings.Contains(w.Body.String(), `"error":"storage is away"`) {
		t.Errorf("state: %d %s", w.Code, w.Body)
	}
}
