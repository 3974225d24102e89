package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

var haproxyClaims = []observation{
	{"weights are interleaved, and the others keep their ratio", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 3)
		c := start(" server a %s weight 5 check inter 100ms\n server b %s weight 3\n server c %s weight 2", b[0].addr, b[1].addr, b[2].addr)
		if order := c.order(20, b); strings.Count(order, "a") != 10 || strings.Count(order, "b") != 6 || strings.Contains(order, "aaa") {
			t.Errorf("weights 5, 3, 2: %s", order)
		}
		b[0].kill()
		waitFor(t, "a to be down", func() bool { return !strings.Contains(c.order(5, b), "a") })
		if order := c.order(50, b); strings.Count(order, "b") != 30 || strings.Count(order, "c") != 20 {
			t.Errorf("weights 3, 2: %s", order)
		}
	}},
	{"retries a second apart at the same backend", func(t *testing.T, start func(string, ...any) *claimed) {
		c := start(" server a %s", freeAddress(t))
		status, _, took := c.send("GET", "/")
		is(t, "status", status, 503)
		if took < 2900*time.Millisecond {
			t.Errorf("it took %v, want 3 s", took)
		}
	}},
	{"a backend that fails requests stays", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 2)
		b[0].handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		c := start(" server a %s\n server b %s", b[0].addr, b[1].addr)
		for range 20 {
			c.send("GET", "/")
		}
		is(t, "requests at the one that fails", b[0].requests.Load(), 10)
	}},
	{"observe with error-limit takes it out", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 2)
		b[0].handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		c := start(" default-server check inter 1m fastinter 1m observe layer7 error-limit 5 on-error mark-down\n server a %s\n server b %s", b[0].addr, b[1].addr)
		for range 30 {
			c.send("GET", "/")
		}
		is(t, "requests at the one that fails", b[0].requests.Load(), 5)
	}},
	{"all checks fail: 503; 3xx passes", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		for checked, want := range map[int]int{500: 503, 301: 200} {
			b.handle(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/check" {
					w.WriteHeader(checked)
				}
			})
			before := b.requests.Load()
			c := start(" option httpchk GET /check\n server a %s check inter 50ms", b.addr)
			waitFor(t, "checks", func() bool { return b.requests.Load() > before+5 })
			status, _, _ := c.send("GET", "/")
			is(t, "status", status, want)
		}
	}},
	{"a queue of requests", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		slowly(b, 50*time.Millisecond)
		c := start(" server a %s maxconn 1", b.addr)
		is(t, "statuses 200", c.together(10)[200], 10)
		is(t, "at a time", b.maxInFlight.Load(), 1)
	}},
	{"only the first backup", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 3)
		b[0].kill()
		c := start(" server a %s check inter 50ms\n server b %s backup\n server c %s backup", b[0].addr, b[1].addr, b[2].addr)
		waitFor(t, "a to be down", func() bool { status, _, _ := c.send("GET", "/"); return status == 200 })
		is(t, "backends", c.order(6, b), "bbbbbb")
	}},
	{"timeout server bounds each silence", boundsSilence(" timeout server 1s\n server a %s")},
	{"all requests of a client above its rate are refused", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		c := start(" stick-table type ip size 1k expire 30s store http_req_rate(10s)\n http-request track-sc0 src\n http-request deny deny_status 429 if { sc_http_req_rate(0) gt 5 }\n server a %s", b.addr)
		for range 30 {
			c.send("GET", "/")
		}
		is(t, "requests that pass", b.requests.Load(), 5)
	}},
	{"hashes any expression, with a bounded load, and least connections by weight", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 2)
		start(" balance hash req.hdr(x-key)\n hash-type consistent\n hash-balance-factor 150\n server a %s weight 2\n server b %s", b[0].addr, b[1].addr)
		slowly(b[0], time.Second)
		slowly(b[1], time.Second)
		c := start(" balance leastconn\n server a %s weight 3\n server b %s", b[0].addr, b[1].addr)
		c.together(16)
		is(t, "requests at a", b[0].requests.Load(), 12)
	}},
}

var nginxClaims = []observation{
	{"weights are interleaved, and the others keep their ratio", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 3)
		c := start("server %s weight=5;\nserver %s weight=3;\nserver %s weight=2;", b[0].addr, b[1].addr, b[2].addr)
		if order := c.order(20, b); strings.Count(order, "a") != 10 || strings.Count(order, "b") != 6 || strings.Contains(order, "aaa") {
			t.Errorf("weights 5, 3, 2: %s", order)
		}
		b[0].kill()
		c.order(2, b) // one finds out
		if order := c.order(50, b); strings.Count(order, "b") != 30 || strings.Count(order, "c") != 20 {
			t.Errorf("weights 3, 2: %s", order)
		}
	}},
	{"a backend that failed is out, and all that failed are not tried", func(t *testing.T, start func(string, ...any) *claimed) {
		one, other := freeAddress(t), freeAddress(t)
		several, single := start("server %s;\nserver %s;", one, other), start("server %s;", one)
		for _, c := range []*claimed{several, single} {
			status, _, _ := c.send("GET", "/")
			is(t, "none can be reached", status, 502)
		}
		startBackendAt(t, "tcp", one)
		startBackendAt(t, "tcp", other)
		status, _, _ := several.send("GET", "/")
		is(t, "both are back", status, 502)
		status, _, _ = single.send("GET", "/")
		is(t, "the only one is back", status, 200)
	}},
	{"tries each other backend once, a POST only if it was not sent", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 3)
		for _, failing := range b[:2] {
			failing.handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		}
		status, _, _ := start("server %s;\nserver %s;\nserver %s;", b[0].addr, b[1].addr, b[2].addr).send("GET", "/")
		is(t, "GET", status, 200)
		status, _, _ = start("server %s;\nserver %s;\nserver %s;", b[0].addr, b[1].addr, b[2].addr).send("POST", "/")
		is(t, "POST", status, 502)
		status, _, _ = start("server %s;\nserver %s backup;", freeAddress(t), b[2].addr).send("POST", "/")
		is(t, "POST that was not sent", status, 200)
	}},
	{"no queue", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		slowly(b, time.Second)
		got := start("zone u 64k;\nserver %s max_conns=1;", b.addr).together(4)
		if got[200] != 1 || got[502] != 3 {
			t.Errorf("statuses %v, want one 200 and three 502", got)
		}
	}},
	{"all backups", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 3)
		b[0].kill()
		c := start("server %s;\nserver %s backup;\nserver %s backup;", b[0].addr, b[1].addr, b[2].addr)
		if order := c.order(6, b); strings.Count(order, "b") != 3 || strings.Count(order, "c") != 3 {
			t.Errorf("backends %s", order)
		}
	}},
	{"proxy_read_timeout bounds each silence", boundsSilence("server %s;---proxy_read_timeout 1s;")},
	{"clients above their rate wait within burst", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		began := time.Now()
		got := start("server %s;---limit_req zone=z burst=2;---limit_req_zone $binary_remote_addr zone=z:1m rate=2r/s;", b.addr).together(6)
		if took := time.Since(began); got[200] != 3 || got[503] != 3 || took < 900*time.Millisecond {
			t.Errorf("statuses %v after %v, want three of each and 1 s", got, took)
		}
	}},
	{"least connections by weight", func(t *testing.T, start func(string, ...any) *claimed) {
		b, _ := startBackends(t, 2)
		slowly(b[0], time.Second)
		slowly(b[1], time.Second)
		start("least_conn;\nserver %s weight=3;\nserver %s;", b[0].addr, b[1].addr).together(16)
		is(t, "requests at a", b[0].requests.Load(), 12)
	}},
	{"Host is the name in proxy_pass, errors of backends pass", func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Backend", r.Host)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		status, host, _ := start("server %s;---error_page 503 =200 /page;", b.addr).send("GET", "/")
		is(t, "status", status, 503)
		is(t, "host", host, "u")
	}},
}
