package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// givesUp has the backend wait for the body for a second, and then do that.
func givesUp(then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
		if _, err := discard(r.Body); err != nil {
			then(w, r)
		}
	}
}

// answersAnd has the backend answer before it has read the body.
func answersAnd(then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		then(w, r)
	}
}

func breaksOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// uploadBackends are what a backend does with an upload.
var uploadBackends = map[string]http.HandlerFunc{
	"reads":      func(_ http.ResponseWriter, r *http.Request) { _, _ = discard(r.Body) },
	"hangs":      func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"closes":     givesUp(breaksOff),
	"resets":     givesUp(writes()),
	"answers408": givesUp(answers(http.StatusRequestTimeout)),
	"answers503": givesUp(answers(http.StatusServiceUnavailable)),
	"streams": func(w http.ResponseWriter, _ *http.Request) {
		for { // bound: it fails when the client has gone
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	},
	"answersFirst": answersAnd(func(w http.ResponseWriter, r *http.Request) {
		if _, err := discard(r.Body); err != nil {
			breaksOff(w, r)
		}
	}),
	"breaksAnswer": answersAnd(givesUp(breaksOff)),
	"resetsAtOnce": writes(),
}

// startTLSCaddy runs Caddy with a site that speaks HTTP/1.1, HTTP/2 and HTTP/3.
func startTLSCaddy(t *testing.T, site string) *caddy {
	t.Helper()
	certificate, key := selfSigned(t)
	return startCaddyConfig(t, "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n\tauto_https disable_redirects\n\tservers {\n\t\tenable_full_duplex\n\t\t"+
		seamless+"\n\t}\n}\n\nhttps://SITE_ADDRESS {\n\ttls "+certificate+" "+key+"\n"+site+"\n}\n")
}

// TestClientsAreNoFaults: whatever clients do to their requests, over every protocol, no backend is blamed for it. What they are
// answered, or would be, is an error of theirs.
func TestClientsAreNoFaults(t *testing.T) {
	const large = 100_000 // bytes announced, of which few come; what is smaller might be collected before it is sent on
	const clients = 12    // that do so at the same time; more than it takes to open a breaker
	type row struct {
		name      string
		announced int // Content-Length; negative for none
		sent      int // bytes
		then      clientEnd
		backend   string // what it does
		protocols string
		statuses  []int // of the access log, any of them
	}
	rows := []row{
		{"too short", 10, 5, endsBody, "reads", "h1 h2 h3", []int{400}},
		{"none", 10, 0, endsBody, "reads", "h1 h2 h3", []int{400}},
		{"too short, large", large, 5000, endsBody, "reads", "h1 h2 h3", []int{400}},
		{"too short, chunked", -1, 5000, endsBody, "reads", "h1", []int{400}},
		{"too long", 10, 15, endsBody, "reads", "h2 h3", []int{400, 499}},
		{"too long, large", 30_000, 50_000, endsBody, "reads", "h2 h3", []int{400, 499}},
		{"too long, then another request", 10, 15, endsBody, "reads", "h1", []int{200}},
		{"reset", large, 5000, resets, "reads", "h1 h2 h3", []int{499}},
		{"closes", large, 5000, closes, "reads", "h1", []int{400}}, // or its side only
		{"closes", large, 5000, closes, "reads", "h2 h3", []int{499}},
		{"bad chunk", -1, 5, breaksChunk, "reads", "h1", []int{400}},
		{"bad chunk, later", -1, 5000, breaksChunk, "reads", "h1", []int{400}},
		{"bad trailers", -1, 5000, breaksTrailers, "reads", "h1 h3", []int{400}},
		{"bad trailers", -1, 5000, breaksTrailers, "reads", "h2", []int{400, 499}}, // the stream is reset
		{"leaves before the answer", 5, 5, resets, "hangs", "h1 h2", []int{499}},
		{"leaves during the answer", 5, 5, leaves, "streams", "h1 h2 h3", []int{200}},
		{"stalls until it is closed", large, 5000, pauses, "closes", "h1 h2 h3", []int{502}},
		{"stalls until it is reset", -1, 5000, pauses, "resets", "h1 h2 h3", []int{502}},
		{"stalls until it is closed, small", 10_000, 5000, pauses, "closes", "h1 h2 h3", []int{502}},
		{"stalls until it is answered 408", large, 5000, waits, "answers408", "h1 h2 h3", []int{408}},
		{"stalls until it is answered 503", large, 5000, waits, "answers503", "h1 h2 h3", []int{503}},
		{"trickles until it is closed", large, 5000, trickles, "closes", "h1 h2 h3", []int{502}},
		{"trickles until it is answered 503", -1, 5000, trickles, "answers503", "h1 h2 h3", []int{502, 503}},
		{"too short, answered first", large, 5000, endsBody, "answersFirst", "h1 h2 h3", []int{200}},
		{"bad chunk, answered first", -1, 5000, breaksChunk, "answersFirst", "h1", []int{200}},
		{"stalls until the answer breaks off", large, 5000, waits, "breaksAnswer", "h1 h2 h3", []int{200}},
	}
	backends, addresses := startBackends(t, 2)
	var begun sync.Map // channels by path, which are closed when a backend has got the request
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if c, ok := begun.Load(r.URL.Path); ok {
				close(c.(chan struct{}))
			}
			uploadBackends[path.Base(path.Dir(r.URL.Path))](w, r)
		})
	}
	const control = "reverse_proxy" // whose passive checks count the same uploads; it is not judged
	all := []string{"", "retry off", "request_buffers 1MiB", control}
	controls := 0
	var site strings.Builder
	tests := make(map[string]func(t *testing.T, c *caddy))
	for _, row := range rows {
		for _, protocol := range strings.Fields(row.protocols) {
			for _, settings := range all {
				if settings == "request_buffers 1MiB" && (row.then == waits || row.then == pauses || row.then == closes || row.then == trickles || row.then == resets || row.backend == "answersFirst") {
					continue // no backend hears of it
				}
				pool := fmt.Sprintf("p%d", len(tests))
				if settings == control {
					controls += clients
					fmt.Fprintf(&site, "handle /%s/* {\n reverse_proxy %s {\n lb_policy first\n fail_duration 5m\n max_fails 100000\n}\n}\n", pool, addresses)
				} else {
					fmt.Fprintf(&site, "handle /%s/* {\n load_balancer %s {\n name %s\n lb_policy first\n %s\n}\n}\n", pool, addresses, pool, settings)
				}
				u := brokenUpload{announced: row.announced, sent: row.sent, then: row.then, after: row.backend == "answersFirst"}
				tests[fmt.Sprint(row.name, ", ", protocol, ", ", settings)] = func(t *testing.T, c *caddy) {
					where := "/" + pool + "/" + row.backend + "/"
					var wg sync.WaitGroup
					for n := range clients {
						u := u
						where, reached := fmt.Sprint(where, n), make(chan struct{})
						begun.Store(where, reached)
						u.begun = func() {
							select {
							case <-reached:
							case <-time.After(20 * time.Second):
							}
						}
						wg.Go(func() {
							if err := protocols[protocol](c.site, where, u); err != nil {
								t.Error(err)
							}
						})
					}
					wg.Wait()
					if settings == control {
						return
					}
					statuses := make(map[int]int)
					for _, line := range c.accessLog(where, clients) {
						statuses[line.Status]++
					}
					for status := range statuses {
						if !slices.Contains(row.statuses, status) {
							t.Errorf("statuses %v, want %v", statuses, row.statuses)
						}
					}
					c.expectBlameless(t, pool)
				}
			}
		}
	}
	c := startTLSCaddy(t, onLog+site.String())
	t.Cleanup(func() { // when all have ended
		_, upstreams := c.askAdmin("GET", "/reverse_proxy/upstreams")
		t.Logf("reverse_proxy had %d such uploads and blames backends for some: %s", controls, upstreams)
	})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// expectBlameless waits until no request of the pool is on its way, and expects that no backend of it is blamed for any.
func (c *caddy) expectBlameless(t *testing.T, pool string) {
	t.Helper()
	var p poolState
	waitFor(t, "the requests to end", func() bool {
		p = c.poolNamed(pool)
		return p.Backends[0].InFlight+p.Backends[1].InFlight == 0
	})
	for _, b := range p.Backends {
		if b.Failures != 0 || b.Breaker != "closed" {
			t.Errorf("%s: %d failures, breaker %s; want none, and closed", b.Address, b.Failures, b.Breaker)
		}
	}
}

// TestUploadsAreDropped: a backend that drops uploads is blamed, also where their clients are slow.
func TestUploadsAreDropped(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if path.Base(r.URL.Path) == "all" {
				_, _ = discard(r.Body)
			}
			uploadBackends["resetsAtOnce"](w, r)
		})
	}
	c := startTLSCaddy(t, "load_balancer "+addresses+" {\n name p\n lb_policy first\n}")
	for protocol, send := range protocols {
		for _, u := range []brokenUpload{{announced: 100_000, sent: 5000, then: trickles}, {announced: 5000, sent: 5000, then: endsBody}} {
			where := "/"
			if u.announced == u.sent {
				where = "/all"
			}
			before := c.poolNamed("p")
			if err := send(c.site, where, u); err != nil {
				t.Fatalf("%s: %v", protocol, err)
			}
			if after := c.poolNamed("p"); after.Backends[0].Failures+after.Backends[1].Failures == before.Backends[0].Failures+before.Backends[1].Failures {
				t.Errorf("%s, %v: nobody is blamed", protocol, u.then)
			}
		}
	}
}

// TestCollectedFirst: a body that is collected before it is sent on takes a backend's slot when it is there, and one that never comes
// takes none.
func TestCollectedFirst(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	b.handle(func(_ http.ResponseWriter, r *http.Request) { _, _ = discard(r.Body) })
	c := startTLSCaddy(t, onLog+"load_balancer {\n backend "+b.addr+" {\n max_requests 1\n}\n name p\n request_buffers 1MiB\n queue 10 1m\n}")
	begun := make(chan struct{})
	for protocol, send := range protocols {
		done := make(chan error, 1)
		// It goes on for longer than the requests below take, and breaks off.
		go func() {
			done <- send(c.site, "/slow", brokenUpload{announced: 1 << 20, sent: 5000, then: closes, begun: func() { <-begun }})
		}()
		waitFor(t, "the upload to begin", func() bool { return liveRequests(c, "p") > 0 })
		for range 3 {
			if err := send(c.site, "/other", brokenUpload{announced: 10, sent: 10}); err != nil {
				t.Error(err)
			}
		}
		if p := c.poolNamed("p"); p.Backends[0].InFlight != 0 || p.Queue != 0 {
			t.Errorf("%s: %d requests hold a slot and %d wait for one", protocol, p.Backends[0].InFlight, p.Queue)
		}
		begun <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, line := range c.accessLog("/other", 9) {
		if line.Status != http.StatusOK {
			t.Errorf("status %d", line.Status)
		}
	}
	for _, line := range c.accessLog("/slow", 3) {
		if line.LB != nil && len(line.LB.Attempts) != 0 {
			t.Errorf("an upload that was broken off has been to a backend: %+v", line.LB.Attempts)
		}
	}
	if n := b.requests.Load(); n != 9 {
		t.Errorf("the backend got %d requests, want 9", n)
	}
}

// liveRequests is how many requests of a pool are on their way, those without a backend among them.
func liveRequests(c *caddy, pool string) int {
	var explained struct{ Live []struct{} }
	c.api("GET", "/load_balancer/pools/"+pool+"/explain", &explained)
	return len(explained.Live)
}

// TestNothingAfterInformational: once the client has been given a 1xx no other backend is asked.
func TestNothingAfterInformational(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	for _, fails := range []struct{ hint, then string }{
		{"103 Early Hints", ""}, {"102 Processing", ""}, {"103 Early Hints", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"},
	} {
		backends[0].handle(writes("HTTP/1.1 "+fails.hint+"\r\nLink: </a>\r\n\r\n", fails.then))
		for _, settings := range []string{"retry {\n non_idempotent\n}", "lb_retries 2"} {
			c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy first\n transport http {\n versions 1.1 2\n}\n"+settings+"\n}")
			before := backends[1].requests.Load()
			conn, err := net.Dial("tcp", c.site)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.site)
			all, _ := io.ReadAll(conn)
			conn.Close()
			if n := backends[1].requests.Load() - before; n != 0 || !strings.HasPrefix(string(all), "HTTP/1.1 "+fails.hint) || !strings.Contains(string(all), "HTTP/1.1 50") {
				t.Errorf("%v, %s: another backend is asked %d times, the client got %q", fails, settings, n, all)
			}
		}
	}
}
