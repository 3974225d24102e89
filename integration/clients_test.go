package integration

import (
	"fmt"
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
	return startCaddyConfig(t, "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n\tauto_https disable_redirects\n\tservers {\n\t\tenable_full_duplex\n\t}\n}\n\n"+
		"https://SITE_ADDRESS {\n\ttls "+certificate+" "+key+"\n"+site+"\n}\n")
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
	all := []string{"", "retry off", "request_buffers 1MiB"}
	var site strings.Builder
	tests := make(map[string]func(t *testing.T, c *caddy))
	for _, row := range rows {
		for _, protocol := range strings.Fields(row.protocols) {
			for _, settings := range all {
				if settings == "request_buffers 1MiB" && (row.then == waits || row.then == pauses || row.then == closes || row.then == trickles || row.then == resets || row.backend == "answersFirst") {
					continue // no backend hears of it
				}
				pool := fmt.Sprintf("p%d", len(tests))
				fmt.Fprintf(&site, "handle /%s/* {\n load_balancer %s {\n name %s\n lb_policy first\n %s\n}\n}\n", pool, addresses, pool, settings)
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
		c.api("GET", "/load_balancer/pools/"+pool, &p)
		return p.Backends[0].InFlight+p.Backends[1].InFlight == 0
	})
	for _, b := range p.Backends {
		if b.Failures != 0 || b.Breaker != "closed" {
			t.Errorf("%s: %d failures, breaker %s; want none, and closed", b.Address, b.Failures, b.Breaker)
		}
	}
}
