package integration

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// With this flag the faults are put upon reverse_proxy, for comparison: what happens is printed, and not judged.
var stock = flag.Bool("stock", false, "run the fault tests against reverse_proxy with lb_try_duration, and only print what happens")

// faultRate is the load of most fault tests, in requests per second.
const faultRate = 1000

// faults is a pool of three under load.
type faults struct {
	*caddy
	t        *testing.T
	backends []*backend
}

// startFaults starts three backends, and Caddy with a pool of them that has these settings.
func startFaults(t *testing.T, settings string) *faults {
	t.Helper()
	backends, addresses := startBackends(t, 3)
	directive := "load_balancer " + addresses + " {\n name p\n" + settings + "\n}"
	if *stock {
		directive = "reverse_proxy " + addresses + " {\n lb_policy round_robin\n lb_try_duration 5s\n}"
	}
	return &faults{caddy: startCaddy(t, directive), t: t, backends: backends}
}

// under puts a load on for that long, and calls fault a second after it began.
func (f *faults) under(duration time.Duration, fault func()) *openloop.Summary {
	f.t.Helper()
	return f.underLoad(openloop.Options{Duration: duration}, fault)
}

func (f *faults) underLoad(o openloop.Options, fault func()) *openloop.Summary {
	f.t.Helper()
	o.URL, o.Timeout = f.url("/"), 20*time.Second
	if o.Rate == 0 {
		o.Rate = faultRate
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-time.After(time.Second)
		fault()
	})
	s, err := openloop.Run(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	wg.Wait()
	f.t.Logf("sent %d, failed %d, statuses %v, errors %v, p50 %v, p99 %v, longest %v, retries %v",
		s.Sent, s.Failed(), s.Statuses, s.Errors, s.Quantile(0.5), s.Quantile(0.99), s.Quantile(1), f.metrics(`caddy_load_balancer_retries_total{.*reason="(\w+)"`))
	return s
}

// expect fails the test unless reverse_proxy is being tried.
func (f *faults) expect(ok bool, format string, args ...any) {
	f.t.Helper()
	if !ok && !*stock {
		f.t.Errorf(format, args...)
	}
}

// breaker returns the state of the backend's breaker.
func (f *faults) breaker(b *backend) string {
	for state := range f.metrics(`caddy_load_balancer_breaker_state{backend="` + b.addr + `",pool="p",state="(\w+)"`) {
		return state
	}
	return "unknown"
}

// isolated waits until a backend is out, and checks how long that took.
func (f *faults) isolated(b *backend, within time.Duration) {
	f.t.Helper()
	if *stock {
		return
	}
	start := time.Now()
	waitFor(f.t, "the breaker to open", func() bool { return f.breaker(b) == "open" })
	took := time.Since(start)
	f.t.Logf("isolated after %v", took)
	f.expect(took <= within, "isolated after %v, want %v at most", took, within)
}

// answers has the backend answer with that status at once.
func answers(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// writes has the backend write that instead of an answer, and reset the connection.
func writes(texts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		for _, text := range texts {
			if _, err := conn.Write([]byte(text)); err != nil {
				return
			}
		}
		if len(texts) == 0 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
	}
}

// largeHeader is an answer with 14 MB of header.
var largeHeader = []string{"HTTP/1.1 200 OK\r\nX: ", strings.Repeat(strings.Repeat("a", 1<<10)+"\r\nX: ", 14<<10), "\r\n\r\n"}

func healthy(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", r.Host)
	fmt.Fprint(w, "ok")
}

// TestFaultKilled: a backend is killed under load, and comes back. Nobody notices.
func TestFaultKilled(t *testing.T) {
	f := startFaults(t, "")
	b := f.backends[0]
	var again *backend
	s := f.under(13*time.Second, func() {
		b.kill()
		f.isolated(b, time.Second)
		again = startBackendAt(t, "tcp", b.addr)
		f.expect(again.requests.Load() == 0, "asked before its time")
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
	f.expect(f.breaker(b) == "closed" && again.requests.Load() > 100, "breaker %s, %d requests after it came back", f.breaker(b), again.requests.Load())
	f.expect(f.metrics(`caddy_load_balancer_retry_budget_remaining{pool="(\w+)"`)["p"] > 10, "the retry budget is used up")
}

// TestFaultAnswers: a backend that answers, but wrongly, or breaks the connection, is out in a second, and costs no
// request.
func TestFaultAnswers(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"503 at once":         answers(503),
		"reset before header": writes(),
		"closed":              writes(""),
		"garbage":             writes("\x00\x16\x03garbage\r\n\r\n"),
		"14 MB of header":     writes(largeHeader...),
	} {
		t.Run(name, func(t *testing.T) {
			f := startFaults(t, "")
			b := f.backends[0]
			load, within := openloop.Options{Duration: 4 * time.Second}, time.Second
			if name == "14 MB of header" {
				// That much takes a while to make and to read.
				load.Rate, within = faultRate/10, 3*time.Second
			}
			var before int64
			s := f.underLoad(load, func() {
				before = b.requests.Load()
				b.handle(fault)
				f.isolated(b, within)
			})
			f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
			t.Logf("the backend got %d requests from then on", b.requests.Load()-before)
			f.expect(b.requests.Load()-before <= 40, "the backend got %d requests more, want no more than it takes to notice", b.requests.Load()-before)
		})
	}
}

// TestFaultHangs: a backend accepts connections and never answers. Requests are held up for the try timeout.
func TestFaultHangs(t *testing.T) {
	f := startFaults(t, "lb_policy round_robin\n retry {\n try_timeout 500ms\n }")
	b := f.backends[0]
	over := make(chan struct{})
	defer close(over)
	s := f.under(5*time.Second, func() {
		b.handle(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-over:
			case <-r.Context().Done():
			}
		})
		f.isolated(b, 1500*time.Millisecond)
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
	f.expect(s.Quantile(1) < 1500*time.Millisecond, "the longest request took %v, want the try timeout and another attempt", s.Quantile(1))
}

// TestFaultMidBody: what breaks off is never taken for a whole answer, and its backend is out soon.
func TestFaultMidBody(t *testing.T) {
	f := startFaults(t, "")
	b := f.backends[0]
	s := f.under(4*time.Second, func() {
		b.handle(writes("HTTP/1.1 200 OK\r\nX-Backend: broken\r\nContent-Length: 1000\r\n\r\nbeginning"))
		f.isolated(b, time.Second)
	})
	f.expect(s.Backends["broken"] == 0, "%d answers that broke off were taken for whole", s.Backends["broken"])
	f.expect(s.Failed() > 0 && s.Failed() <= 20, "%d requests saw a broken answer, want some, but no more than it takes to notice", s.Failed())
}

// TestFaultOnlyBackend: with nobody else to go to the answer is a quick 502, and what follows is clean.
func TestFaultOnlyBackend(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr)
	for name, fault := range map[string]http.HandlerFunc{
		"reset":   writes(),
		"garbage": writes("\x00\x16\x03garbage\r\n\r\n"),
		"header":  writes(largeHeader...),
	} {
		b.handle(fault)
		start := time.Now()
		if status, _, _ := c.get("/"); status != http.StatusBadGateway || time.Since(start) > time.Second {
			t.Errorf("%s: status %d after %v, want 502 within a second", name, status, time.Since(start))
		}
		b.handle(healthy)
		if status, _, body := c.get("/"); status != http.StatusOK || body != "ok" {
			t.Errorf("%s: afterwards: status %d, %q", name, status, body)
		}
	}
	// A length and chunks at a time: the chunks count (RFC 9112, 6.3), and nothing of it is left for the next answer.
	b.handle(writes("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
	if status, header, body := c.get("/"); status != http.StatusOK || body != "whole" || header.Get("Content-Length") == "3" {
		t.Errorf("both lengths: status %d, %q, %v", status, body, header)
	}
	b.handle(healthy)
	for range 20 {
		if _, _, body := c.get("/"); body != "ok" {
			t.Fatalf("an answer of %q that nobody asked for", body)
		}
	}
}

// TestFaultFlapping: two seconds dead, two seconds alive.
func TestFaultFlapping(t *testing.T) {
	f := startFaults(t, "breaker {\n open 500ms 60s\n }")
	b := f.backends[0]
	s := f.under(12*time.Second, func() {
		now := b
		for range 2 {
			now.kill()
			<-time.After(2 * time.Second)
			now = startBackendAt(t, "tcp", b.addr)
			<-time.After(2 * time.Second)
		}
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
}

// TestFaultAllAnswer503: an outage of all is not multiplied, and over when it is over.
func TestFaultAllAnswer503(t *testing.T) {
	f := startFaults(t, "")
	var bad atomic.Bool
	var attempts, answered atomic.Int64
	for _, b := range f.backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if bad.Load() {
				attempts.Add(1)
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			answered.Add(1)
			healthy(w, r)
		})
	}
	const outage = 5 * time.Second
	var good int64
	s := f.under(8*time.Second, func() {
		good = answered.Load()
		bad.Store(true)
		<-time.After(outage)
		bad.Store(false)
	})
	requests := float64(s.Sent) - float64(answered.Load())
	t.Logf("%d attempts for %v requests that found an outage: %.3f", attempts.Load(), requests, float64(attempts.Load())/requests)
	f.expect(float64(attempts.Load()) <= 1.2*requests+10*outage.Seconds(), "%d attempts for %v requests", attempts.Load(), requests)
	f.expect(answered.Load()-good > int64(faultRate), "%d answers after the outage, want all that came then", answered.Load()-good)
}

// TestFaultAllGone: all backends are killed and come back together. While they are gone the answer is a quick 503 and
// nobody dials; when they are back, none of them gets much more than its share.
func TestFaultAllGone(t *testing.T) {
	f := startFaults(t, "breaker {\n open 1s 2s\n }")
	back := make([]*backend, 3)
	type tally struct{ n [3]atomic.Int64 }
	var perSecond [30]tally
	var returned time.Time
	s := f.under(13*time.Second, func() {
		for _, b := range f.backends {
			b.kill()
		}
		for _, b := range f.backends {
			f.isolated(b, time.Second)
		}
		if !*stock {
			f.expectQuick503(500)
		}
		<-time.After(4 * time.Second)
		returned = time.Now()
		for i, old := range f.backends {
			back[i] = startBackendAt(t, "tcp", old.addr)
			back[i].handle(func(w http.ResponseWriter, r *http.Request) {
				perSecond[min(int(time.Since(returned).Seconds()), len(perSecond)-1)].n[i].Add(1)
				healthy(w, r)
			})
		}
	})
	f.expect(s.Statuses[502] <= 60, "%d requests were answered 502, want no more than it takes to notice", s.Statuses[502])
	most := 0.0
	for second := range perSecond {
		var n [3]float64
		for i := range n {
			n[i] = float64(perSecond[second].n[i].Load())
		}
		all := n[0] + n[1] + n[2]
		if all == 0 {
			continue
		}
		t.Logf("second %d after their return: %v", second, n)
		if all >= faultRate/2 {
			most = max(most, n[0]/all, n[1]/all, n[2]/all)
		}
	}
	f.expect(most <= 1.2/3, "one of three got %.0f %% in some second, want 40 %% at most", most*100)
	f.expect(f.logged("too few backends") == 0, "a panic, though nobody was left to be used in one")
	opened := 0.0
	for _, n := range f.metrics(`caddy_load_balancer_breaker_transitions_total{backend="([^"]*)",pool="p",state="open"`) {
		opened = max(opened, n)
	}
	t.Logf("most openings of a breaker: %v", opened)
	for _, b := range f.backends {
		f.expect(f.breaker(b) == "closed", "breaker of %s is %s in the end", b.addr, f.breaker(b))
	}
}

// expectQuick503 asks n times while all backends are gone.
func (f *faults) expectQuick503(n int) {
	f.t.Helper()
	slow := 0
	for range n {
		start := time.Now()
		status, header, _ := f.get("/")
		after, err := strconv.Atoi(header.Get("Retry-After"))
		if status == http.StatusBadGateway {
			continue // one of the few that were sent to find out
		}
		if status != http.StatusServiceUnavailable || err != nil || after < 1 || after > 30 {
			f.t.Fatalf("status %d, Retry-After %q; want 503 and 1 to 30", status, header.Get("Retry-After"))
		}
		if time.Since(start) > 10*time.Millisecond {
			slow++
		}
	}
	f.expect(slow <= n/10, "%d of %d took more than 10 ms", slow, n)
}

// TestFaultClientsLeave: clients that leave are nobody's failure, and leave nothing behind.
func TestFaultClientsLeave(t *testing.T) {
	f := startFaults(t, "")
	for _, b := range f.backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stay" {
				return
			}
			<-r.Context().Done()
		})
	}
	f.get("/stay")
	goroutines := func() float64 { return f.metrics(`(go_goroutines)`)["go_goroutines"] }
	before := goroutines()
	const clients, each = 50, 100
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				ctx, cancel := context.WithCancel(t.Context())
				trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { time.AfterFunc(50*time.Millisecond, cancel) }}
				r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, f.url("/"), nil)
				if err == nil {
					if res, err := client.Do(r); err == nil {
						res.Body.Close()
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	reached := f.backends[0].requests.Load() + f.backends[1].requests.Load() + f.backends[2].requests.Load()
	t.Logf("%d requests reached a backend before their clients left", reached)
	f.expect(reached > clients*each/2, "%d requests reached a backend: this tests little", reached)
	if !*stock {
		waitFor(t, "no request to be in flight", func() bool {
			for _, b := range f.pool().Backends {
				if b.InFlight != 0 {
					return false
				}
			}
			return true
		})
		for _, b := range f.pool().Backends {
			f.expect(b.Failures == 0 && b.Breaker == "closed", "%s: %d failures, breaker %s", b.Name, b.Failures, b.Breaker)
		}
	}
	client.CloseIdleConnections()
	t.Logf("%v goroutines before, %v after", before, goroutines())
	// Connections that were being made when their clients left are kept for others: 32 for each backend, with two
	// goroutines each.
	waitFor(t, "goroutines to end", func() bool { return goroutines() <= before+20+3*32*2 })
}
