package integration

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdminAttacks: what other sites' pages, wrong tools and odd bodies ask of the admin endpoint changes nothing, and is answered shortly.
func TestAdminAttacks(t *testing.T) {
	_, addresses := startBackends(t, 1)
	c := startCaddy(t, "ip_rate_limit {\n zone z\n rate 100/s\n}\nload_balancer "+addresses+" {\n name p\n}")
	c.get("/")
	const pool, limits = "/load_balancer/pools/p", "/load_balancer/rate_limits/z"
	backend := pool + "/backends/" + addresses
	before, own := c.edit("GET", "", "").etag, c.edit("GET", addresses, "").etag
	ask := func(what, method, path, body string, statuses []int, header ...string) {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+c.admin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
				r.Host = header[i+1]
			}
		}
		res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer res.Body.Close()
		answer, _ := io.ReadAll(res.Body)
		right := false
		for _, status := range statuses {
			right = right || res.StatusCode == status
		}
		if !right || len(answer) > 4096 {
			t.Errorf("%s: status %d with %d bytes, want %v: %.300s", what, res.StatusCode, len(answer), statuses, answer)
		}
		for _, field := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"} {
			if value := res.Header.Get(field); value != "" {
				t.Errorf("%s: %s: %s", what, field, value)
			}
		}
		if res.StatusCode == http.StatusMethodNotAllowed && res.Header.Get("Allow") == "" {
			t.Errorf("%s: 405 without Allow", what)
		}
	}
	_, adminPort, _ := strings.Cut(c.admin, ":")

	// A page of another site, or a name that has been bound to this machine.
	changes := []struct{ method, path, body string }{
		{"PATCH", backend, `{"weight": 5}`}, {"POST", pool + "/backends", `{"address": "127.0.0.1:1"}`}, {"DELETE", backend, ""}, {"POST", backend + "/reset", ""},
		{"DELETE", limits, ""}, {"GET", pool, ""}, {"GET", "/load_balancer/events", ""}, {"OPTIONS", backend, ""},
	}
	for _, x := range changes {
		for _, header := range [][]string{
			{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "http://localhost.evil.example"}, {"Origin", "http://" + c.admin + ".evil.example"}, {"Origin", "http://evil.example@" + c.admin + "x"},
			{"Origin", "https://evil.example", "Content-Type", "text/plain"}, {"Origin", "https://evil.example", "Access-Control-Request-Method", x.method},
			{"Host", "evil.example"}, {"Host", "evil.example:" + adminPort}, {"Host", "127.0.0.1.nip.io:" + adminPort}, {"Host", "evil.example", "Origin", "http://evil.example"},
		} {
			ask(fmt.Sprintf("%s %s, %v", x.method, x.path, header), x.method, x.path, x.body, []int{403, 400}, header...) // 400 for null
		}
	}
	// Methods that are not for it. One that changes something is no disguise of another.
	for _, method := range []string{"PUT", "OPTIONS", "TRACE", "PROPFIND", "get", "BREW"} {
		for _, path := range []string{"/load_balancer/pools", pool, pool + "/backends", backend, backend + "/reset", pool + "/explain", pool + "/history", pool + "/diff", "/load_balancer/express", "/load_balancer/events", limits, limits + "/127.0.0.1"} {
			ask(method+" "+path, method, path, "", []int{405}, "X-HTTP-Method-Override", "DELETE")
		}
	}
	for _, path := range []string{backend + "/reset", backend + "?_method=DELETE&weight=5", backend + "?method=patch"} {
		ask("GET "+path, "GET", path, `{"weight": 5}`, []int{200, 405})
	}
	// Names that lead elsewhere.
	for _, name := range []string{"..", "../../../config/", "..%2f..%2f..%2fconfig", "%2e%2e", "%252e%252e", "a%00b", "a%0d%0aX:%20y", "%", "%zz", "%ff", strings.Repeat("x", 20_000), strings.Repeat("%2f", 5_000), "p/backends/..%2f..%2fp", "<script>alert(1)</script>"} {
		for _, prefix := range []string{"/load_balancer/pools/", pool + "/backends/", "/load_balancer/rate_limits/", limits + "/"} {
			r, err := http.NewRequest(http.MethodGet, "http://"+c.admin+prefix, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.URL.Opaque = "//" + c.admin + prefix + name
			res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
			if err != nil {
				continue // the client has refused to send it
			}
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			switch {
			case res.StatusCode >= 300 && res.StatusCode < 400 || res.StatusCode >= 400 && res.StatusCode < 500:
			case (name == ".." || name == "%2e%2e") && res.StatusCode == http.StatusOK: // the list that is there
			default:
				t.Errorf("%s%.40s: status %d: %.200s", prefix, name, res.StatusCode, answer)
			}
			if kind := res.Header.Get("Content-Type"); strings.Contains(string(answer), "<script>") && !strings.HasPrefix(kind, "application/json") {
				t.Errorf("%s%s: %s: %s", prefix, name, kind, answer)
			}
			if res.Header.Get("X") != "" || strings.Contains(string(answer), `"apps"`) {
				t.Errorf("%s%s: %v: %.200s", prefix, name, res.Header, answer)
			}
		}
	}
	// Bodies.
	deep := func(n int, open, inside, shut string) string {
		return strings.Repeat(open, n) + inside + strings.Repeat(shut, n)
	}
	large := strings.Repeat("x", 1<<20-100)
	for what, body := range map[string]string{
		"deep lists":         deep(400_000, "[", "", "]"),
		"deep lists, open":   deep(1<<20-10, "[", "", ""),
		"deep objects":       deep(150_000, `{"a":`, "1", "}"),
		"deep weight":        `{"weight":` + deep(9_000, "[", "", "]") + "}",
		"deep reason":        `{"weight":5,"reason":` + deep(400_000, "[", "", "]") + "}",
		"large reason":       `{"weight":5,"reason":"` + large + `"}`,
		"large list":         `{"weight":5,"reason":[` + strings.Repeat("1,", 1<<18) + `1]}`,
		"large weight":       `{"weight":"` + large + `"}`,
		"large state":        `{"state":"` + large + `"}`,
		"large zone":         `{"zone":"` + large + `"}`,
		"large until":        `{"weight":5,"until":"2100-01-01T00:00:00.` + strings.Repeat("0", 1<<19) + `Z"}`,
		"large field":        `{"` + large + `":1}`,
		"many fields":        "{" + strings.Repeat(`"weight":5,`, 50_000) + `"weight":5}`,
		"large number":       `{"weight":1e999999}`,
		"long number":        `{"weight":` + strings.Repeat("9", 1<<19) + `}`,
		"fraction":           `{"weight":5.0000000001}`,
		"no text":            "{\"weight\":5,\"reason\":\"\xff\xfe\x00\"}",
		"two objects":        `{"weight":5}{"weight":6}`,
		"other letters":      `{"WEIGHT":5}`,
		"terminal sequences": `{"weight":5,"reason":"\u001b]0;pwned\u0007"}`,
	} {
		ask(what, "PATCH", backend, body, []int{400})
		ask(what+", added", "POST", pool+"/backends", body, []int{400})
		ask(what+", removed", "DELETE", backend, body, []int{400})
	}
	ask("too large", "PATCH", backend, `{"weight":5,"reason":"`+strings.Repeat("x", 1<<20)+`"}`, []int{413})
	ask("packed", "PATCH", backend, "\x1f\x8b\x08\x00", []int{400}, "Content-Encoding", "gzip")
	for what, body := range map[string]string{
		"large address":           `{"address":"` + large[:1<<19] + `:1"}`,
		"path as an address":      `{"address":"../../etc/passwd"}`,
		"path as a name":          `{"address":"127.0.0.1:1","name":"..\\..\\x"}`,
		"line in a name":          `{"address":"127.0.0.1:1","name":"a\nb"}`,
		"markup in a name":        `{"address":"127.0.0.1:1","name":"<img src=x onerror=alert(1)>"}`,
		"placeholder":             `{"address":"{env.HOME}:1"}`,
		"placeholder in a socket": `{"address":"unix//{http.request.uri}"}`,
		"metadata, with a scheme": `{"address":"http://169.254.169.254/"}`,
		"range of ports":          `{"address":"127.0.0.1:1-65535"}`,
	} {
		ask(what, "POST", pool+"/backends", body, []int{400})
	}
	// Conditions.
	for _, tag := range []string{`"stale"`, "stale", `W/` + own, strings.Trim(own, `"`), own[:len(own)-2] + `"`, `""`, ",", "\"a\",\"b\"", strings.Repeat(`"x",`, 5_000)} {
		for _, x := range changes[:3] {
			ask("If-Match "+tag[:min(len(tag), 20)], x.method, x.path, x.body, []int{412}, "If-Match", tag)
		}
	}
	if after := c.edit("GET", "", ""); after.etag != before {
		t.Errorf("something has changed: %s", after.body)
	}
	if status, _, _ := c.get("/"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

// TestPoolNamesStayInStorage: the name of a pool becomes no path.
func TestPoolNamesStayInStorage(t *testing.T) {
	_, addresses := startBackends(t, 1)
	dir := t.TempDir()
	inner := filepath.Join(dir, "a", "b", "c")
	c := startCaddyConfig(t, siteConfig("load_balancer "+addresses+" {\n name ../../../../../evil\n}"), "XDG_DATA_HOME="+inner)
	r, err := http.NewRequest(http.MethodPatch, "http://"+c.admin+"/load_balancer/pools/..%2f..%2f..%2f..%2f..%2fevil/backends/"+addresses+"?sync=1", strings.NewReader(`{"weight": 7}`))
	if err != nil {
		t.Fatal(err)
	}
	if status, text := c.ask(r); status != http.StatusOK || !strings.Contains(text, `"persisted":true`) {
		t.Fatalf("status %d: %s", status, text)
	}
	written := false
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "evil") {
			written = true
			if !strings.HasPrefix(path, filepath.Join(inner, "caddy")+"/") {
				t.Errorf("%s is not in Caddy's storage", path)
			}
		}
		return err
	})
	if err != nil || !written {
		t.Errorf("the document is there: %v, %v", written, err)
	}
}
