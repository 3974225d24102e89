package express

import (
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// maker makes configs and requests of few words, so that they often meet.
type maker struct {
	*rand.Rand
	named int
}

func pick[T any](m *maker, all ...T) T { return all[m.IntN(len(all))] }

func (m *maker) some(all ...string) []string {
	var found []string
	for _, one := range all {
		if m.IntN(len(all)) == 0 {
			found = append(found, one)
		}
	}
	if len(found) == 0 {
		found = append(found, pick(m, all...))
	}
	return found
}

func (m *maker) hosts() []string {
	return m.some("a", "A.b", "c.a.b", "*", "*.b", "*.*", "c.*.b", "::1", "{http.request.host}", "xn--bcher-kva.b")
}

func (m *maker) paths() []string {
	return m.some("/", "/*", "/a", "/A/*", "/a*", "*b", "*.x", "*/c/*", "*/B*", "/a/*/c", "/a?", "/%61", "//a", "/a/", "/b/c", "*", "/{http.request.method}", `/\a`, "/[ab]")
}

func (m *maker) header() map[string]any {
	h := make(map[string]any)
	for range 1 + m.IntN(2) {
		name := pick(m, "X-A", "x-a", "X-B", "Host", "Transfer-Encoding", "Content-Length", "X a")
		switch m.IntN(8) {
		case 0:
			h[name] = nil
		case 1:
			h[name] = []string{}
		default:
			h[name] = m.some("*", "1", "1*", "*1", "*1*", "", "**", "a", "3", "*{http.request.method}*", "*a.b*")
		}
	}
	return h
}

func (m *maker) matcherSet(depth int) map[string]any {
	s := make(map[string]any)
	if m.IntN(3) == 0 {
		s["host"] = m.hosts()
	}
	if m.IntN(3) == 0 {
		s["path"] = m.paths()
	}
	if m.IntN(5) == 0 {
		s["method"] = m.some("GET", "post", "PUT")
	}
	if m.IntN(8) == 0 {
		s["protocol"] = pick(m, "http", "https", "grpc", "http/1.1", "http/2", "http/2+", "http/1.0", "http/1.0+", "http/3", "other")
	}
	if m.IntN(8) == 0 {
		s["header"] = m.header()
	}
	if depth > 0 && m.IntN(5) == 0 {
		s["not"] = m.matcherSets(depth - 1)
	}
	if m.IntN(12) == 0 {
		s["foreign"] = map[string]any{}
	}
	return s
}

func (m *maker) matcherSets(depth int) []map[string]any {
	var all []map[string]any
	for range 1 + m.IntN(2) {
		all = append(all, m.matcherSet(depth))
	}
	return all
}

func (m *maker) handler(depth int) map[string]any {
	switch n := m.IntN(11); {
	case n < 3:
		m.named++
		return map[string]any{"handler": "balancer_double", "name": strconv.Itoa(m.named)}
	case n == 3:
		return map[string]any{"handler": "rewrite", "strip_path_prefix": pick(m, "/a", "/A/", "a", "/b", "/a/b", "/%61", "/", "/a//b", "{x}", "")}
	case n == 4:
		return map[string]any{"handler": "request_body", "max_size": pick(m, 0, 2, 3)}
	case n == 5:
		return map[string]any{"handler": "foreign"}
	case n == 6:
		m.named++
		h := map[string]any{"handler": "headers", "response": map[string]any{"add": map[string]any{"Edited": []string{strconv.Itoa(m.named)}}}}
		if m.IntN(3) == 0 {
			h["request"] = map[string]any{pick(m, "set", "add"): map[string]any{pick(m, "Host", "host", "X-A"): []string{pick(m, "a", "b", "c.a.b")}}}
		}
		return h
	case depth > 0:
		return map[string]any{"handler": "subroute", "routes": m.routes(depth-1, 4)}
	default:
		return map[string]any{"handler": "request_body", "max_size": 4}
	}
}

func (m *maker) routes(depth, most int) []map[string]any {
	all := []map[string]any{}
	for range m.IntN(most + 1) {
		r := make(map[string]any)
		if m.IntN(4) > 0 {
			r["match"] = m.matcherSets(1)
		}
		var handlers []map[string]any
		for range m.IntN(3) {
			handlers = append(handlers, m.handler(depth))
		}
		r["handle"] = handlers
		if m.IntN(3) == 0 {
			r["group"] = pick(m, "g", "h")
		}
		r["terminal"] = m.IntN(6) == 0
		all = append(all, r)
	}
	return all
}

func (m *maker) asked() asked {
	return asked{
		method: pick(m, "GET", "POST", "PUT"),
		host:   pick(m, "a", "a.B", "c.a.b:80", "b", "[::1]", "[::1]:80", "A:", "a.", "::1", "c.d.b", "xn--bcher-kva.b", "GET"),
		target: pick(m, "/", "/a", "/A/", "/a/b", "/a/b/c", "/b", "/a/c/x.x", "/ab", "/a/a/b", "/%61", "/a%2fb", "//a", "/a/../b", "/b/c/", "/a/x/c", "/GET", "/B/c", "/a(b)/!c*", "/a/b?c=/a/b&d"),
		fields: pick(m, "", "", "X-A: 1\r\n", "x-a: \r\n", "X-A: 12\r\nX-B: a\r\n", "X-A: 0\r\nX-a:\t21 \r\n", "X-B: 213\r\n"),
		length: pick[int64](m, 0, 2, 3, 5),
		tls:    m.IntN(2) == 0,
	}
}

// Whatever the routes and the request, where a plain way was found it ends where Caddy ends.
func TestAgreesWithCaddy(t *testing.T) {
	ctx := newContext(t)
	m := &maker{Rand: rand.New(rand.NewPCG(1, 2))}
	plain, operated := 0, 0
	for range 1500 {
		routes, err := json.Marshal(m.routes(2, 8))
		if err != nil {
			t.Fatal(err)
		}
		s := serverOf(t, ctx, string(routes))
		table, w := Compile(s, ctx), NewWay()
		for range 40 {
			a := m.asked()
			h := a.head()
			if h == nil || table.Find(h, stateOf(a.tls), w) != "" {
				continue
			}
			plain++
			path, _, _ := strings.Cut(a.target, "?")
			got := a.caddys(t, s)
			if got.Get("Balancer") != w.Plan.Pool.Name() || got.Get("Path") != path[w.Strip:] || got["Foreign"] != nil || got["Error"] != nil {
				t.Fatalf("%s\n%+v: to %s with path %s, but Caddy says %v", routes, a, w.Plan.Pool.Name(), path[w.Strip:], got)
			}
			edited := make(http.Header)
			for _, e := range w.Edits {
				e.Response.ApplyTo(edited, caddy.NewEmptyReplacer())
			}
			if !slices.Equal(edited["Edited"], got["Edited"]) {
				t.Fatalf("%s\n%+v: operations %v, but Caddy says %v", routes, a, edited, got)
			}
			if len(w.Edits) > 0 {
				operated++
			}
		}
	}
	if plain < 5000 || operated < 500 {
		t.Errorf("only %d of the requests were plain, %d of them with header operations", plain, operated)
	}
}

// FuzzHost compares hosts with those that Caddy's matcher sees.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"a", "A:1", "[::1]", "[::1]:80", "::1", "a:", ":80", "[a", "a]", "[[a]]", "[]:", "a:b:c", "[a]b:1", "[a]b", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		host, ok := hostOf([]byte(field), make([]byte, maxHost))
		if !ok {
			return
		}
		want, _, err := net.SplitHostPort(field)
		if err != nil {
			want = strings.TrimSuffix(strings.TrimPrefix(field, "["), "]")
		}
		if string(host) != strings.ToLower(want) {
			t.Errorf("%q: %q, want %q", field, host, want)
		}
	})
}

func TestHostsThatAreTold(t *testing.T) {
	var told []string
	for _, field := range []string{"a.b", "A.B:80", "[::1]", "[::1]:80", "127.0.0.1:8080", "a:"} {
		if host, ok := hostOf([]byte(field), make([]byte, maxHost)); ok {
			told = append(told, string(host))
		}
	}
	if want := []string{"a.b", "a.b", "::1", "::1", "127.0.0.1", "a"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}
