package integration

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
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

// faultConns is how many requests there are at a time at most. A machine that cannot keep up has fewer requests, and not more at a
// time: what is said of numbers below holds on any. In a soak, which wants a machine of its own, nothing holds them back.
func faultConns() int {
	if *soak {
		return faultRate
	}
	return 16
}

// noticed is how many requests it may take to notice that a backend is broken: five in a row that fail, those that were on the way
// when it broke, and those that were on the way to it when the breaker opened.
func noticed() int { return 5 + 2*faultConns() }

// faults is a pool of three under load.
type faults struct {
	*caddy
	t        *testing.T
	backends []*backend
	all      []*backend   // these, and those that were started in their place
	served   atomic.Int64 // by these backends
	requests string       // the file with the access log
}

// startFaults starts three backends, and Caddy with a pool of them that has these settings.
func startFaults(t *testing.T, settings string) *faults {
	t.Helper()
	backends, addresses := startBackends(t, 3)
	directive := "load_balancer " + addresses + " {\n name p\n" + settings + "\n}"
	if *stock {
		directive = "reverse_proxy " + addresses + " {\n lb_policy round_robin\n lb_try_duration 5s\n}"
	}
	log := filepath.Join(t.TempDir(), "requests")
	f := &faults{caddy: startCaddy(t, logTo(log)+directive), t: t, backends: backends, all: slices.Clone(backends), requests: log}
	for _, b := range backends {
		b.handle(f.healthy)
	}
	return f
}

// under puts a load on, and takes it off when fault has returned.
func (f *faults) under(fault func()) *openloop.Summary {
	f.t.Helper()
	return f.underLoad(openloop.Options{Rate: faultRate, Connections: faultConns()}, fault)
}

func (f *faults) underLoad(o openloop.Options, fault func()) *openloop.Summary {
	f.t.Helper()
	var w *watched
	if !*stock {
		w = f.watch(f.t)
		w.tally, w.repeats = newLogTally(f.requests), true
	}
	stop := make(chan struct{})
	o.URL, o.Timeout, o.Duration, o.Stop = f.url("/"), patience, 10*time.Minute, stop
	var s *openloop.Summary
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { s, err = openloop.Run(f.t.Context(), o) })
	func() {
		defer wg.Wait()
		defer close(stop)
		f.serve(200)
		fault()
	}()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("sent %d, failed %d, statuses %v, errors %v, p50 %v, p99 %v, longest %v, retries %v",
		s.Sent, s.Failed(), s.Statuses, s.Errors, s.Quantile(0.5), s.Quantile(0.99), s.Quantile(1), f.metrics(`caddy_load_balancer_retries_total{.*reason="(\w+)"`))
	if w != nil {
		w.atRest(f.got)
	}
	return s
}

// got is how many requests the backends have got, by address.
func (f *faults) got() map[string]int64 {
	n := make(map[string]int64)
	for _, b := range f.all {
		n[b.addr] += b.requests.Load()
	}
	return n
}

// serve waits until so many requests more have been served; in a soak it takes longer.
func (f *faults) serve(n int) {
	f.t.Helper()
	before := f.served.Load()
	waitFor(f.t, "requests to be served", func() bool { return f.served.Load() >= before+int64(longer(n)) })
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

// waitBreaker waits until the breakers of these backends are in that state.
func (f *faults) waitBreaker(state string, backends ...*backend) {
	f.t.Helper()
	if *stock {
		<-time.After(2 * time.Second) // it has none: whatever it does is to be over by then
		return
	}
	start := time.Now()
	for _, b := range backends {
		waitFor(f.t, "the breaker to be "+state, func() bool { return f.breaker(b) == state })
	}
	f.t.Logf("%s after %v", state, time.Since(start))
}

// retries is how often the pool has made an attempt again.
func (f *faults) retries() (n float64) {
	for _, of := range f.metrics(`caddy_load_balancer_retries_total{.*reason="(\w+)"`) {
		n += of
	}
	return n
}

// healthy is a good answer that counts.
func (f *faults) healthy(w http.ResponseWriter, r *http.Request) {
	healthy(w, r)
	f.served.Add(1)
}

// restart starts another backend in the place of one that was killed.
func (f *faults) restart(old *backend) *backend {
	f.t.Helper()
	b := startBackendAt(f.t, "tcp", old.addr)
	f.all = append(f.all, b)
	b.handle(f.healthy)
	return b
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
	f := startFaults(t, "breaker {\n open 1s 60s\n }")
	b := f.backends[0]
	var again *backend
	s := f.under(func() {
		b.kill()
		f.waitBreaker("open", b)
		f.expect(int(f.retries()) <= noticed(), "%v retries until it was noticed, want %d at most", f.retries(), noticed())
		again = f.restart(b)
		f.waitBreaker("closed", b)
		waitFor(t, "it to be used again", func() bool { return again.requests.Load() >= int64(longer(100)) })
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
	f.expect(f.metrics(`caddy_load_balancer_retry_budget_remaining{pool="(\w+)"`)["p"] > 10, "the retry budget is used up")
}

// TestFaultAnswers: a backend that answers, but wrongly, or breaks the connection, is out soon, and costs no request.
func TestFaultAnswers(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"503 at once":         answers(503),
		"reset before header": writes(),
		"closed":              writes(""),
		"garbage":             writes("\x00\x16\x03garbage\r\n\r\n"),
		"14 MB of header":     writes(largeHeader...),
	} {
		t.Run(name, func(t *testing.T) {
			f := startFaults(t, "breaker {\n open 1m 1m\n }")
			b := f.backends[0]
			load := openloop.Options{Rate: faultRate, Connections: faultConns()}
			if name == "14 MB of header" {
				load.Rate /= 10 // that much takes a while to make and to read
			}
			var before int64
			s := f.underLoad(load, func() {
				before = b.requests.Load()
				b.handle(fault)
				f.waitBreaker("open", b)
				f.serve(100)
			})
			f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
			got := b.requests.Load() - before
			t.Logf("the backend got %d requests from then on", got)
			f.expect(got <= int64(noticed()), "the backend got %d requests more, want no more than it takes to notice", got)
		})
	}
}

// TestFaultHangs: a backend accepts connections and never answers. Requests are held up for the try timeout.
func TestFaultHangs(t *testing.T) {
	tryTimeout := 2 * time.Second // more than a busy machine takes for another answer
	if *soak {
		tryTimeout = 500 * time.Millisecond
	}
	f := startFaults(t, "lb_policy round_robin\n breaker {\n open 1m 1m\n }\n retry {\n try_timeout "+tryTimeout.String()+"\n }")
	b := f.backends[0]
	var hung atomic.Int64
	s := f.under(func() {
		b.handle(func(_ http.ResponseWriter, r *http.Request) {
			hung.Add(1)
			<-r.Context().Done()
		})
		f.waitBreaker("open", b)
		f.serve(100)
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
	f.expect(s.Quantile(1) >= tryTimeout && s.Quantile(1) < tryTimeout+10*time.Second, "the longest request took %v, want the try timeout and another attempt", s.Quantile(1))
	f.expect(hung.Load() <= int64(noticed()), "%d requests were held up, want no more than it takes to notice", hung.Load())
}

// TestFaultMidBody: what breaks off is never taken for a whole answer, and its backend is out soon.
func TestFaultMidBody(t *testing.T) {
	f := startFaults(t, "breaker {\n open 1m 1m\n }")
	b := f.backends[0]
	s := f.under(func() {
		b.handle(writes("HTTP/1.1 200 OK\r\nX-Backend: broken\r\nContent-Length: 1000\r\n\r\nbeginning"))
		f.waitBreaker("open", b)
		f.serve(100)
	})
	f.expect(s.Backends["broken"] == 0, "%d answers that broke off were taken for whole", s.Backends["broken"])
	f.expect(s.Failed() > 0 && s.Failed() <= noticed(), "%d requests saw a broken answer, want some, but no more than it takes to notice", s.Failed())
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
		if status, _, _ := c.get("/"); status != http.StatusBadGateway || time.Since(start) > 10*time.Second {
			t.Errorf("%s: status %d after %v, want 502 soon", name, status, time.Since(start))
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

// TestFaultFlapping: dead, alive, dead, alive.
func TestFaultFlapping(t *testing.T) {
	f := startFaults(t, "breaker {\n open 500ms 60s\n }")
	now := f.backends[0]
	s := f.under(func() {
		for range longer(2) {
			now.kill()
			f.waitBreaker("open", now)
			<-time.After(700 * time.Millisecond) // long enough to be asked in vain once more
			now = f.restart(now)
			f.waitBreaker("closed", now)
			f.serve(100)
		}
	})
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
}

// TestFaultAllAnswer503: an outage of all is not multiplied, and over when it is over.
func TestFaultAllAnswer503(t *testing.T) {
	f := startFaults(t, "")
	var bad atomic.Bool
	var attempts atomic.Int64
	for _, b := range f.backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if bad.Load() {
				attempts.Add(1)
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			f.healthy(w, r)
		})
	}
	start := time.Now()
	s := f.under(func() {
		bad.Store(true)
		waitFor(t, "an outage", func() bool { return attempts.Load() >= int64(longer(1000)) })
		bad.Store(false)
		f.serve(300)
	})
	requests, seconds := float64(s.Sent)-float64(f.served.Load()), time.Since(start).Seconds()
	t.Logf("%d attempts for %v requests that found an outage: %.3f", attempts.Load(), requests, float64(attempts.Load())/requests)
	// Retries are paid for by a fifth of all requests and by the time that passes, with ten seconds to begin with.
	f.expect(float64(attempts.Load()) <= requests+0.2*float64(s.Sent)+10*(seconds+10), "%d attempts for %v requests", attempts.Load(), requests)
	f.expect(requests > 0 && s.Failed() == int(requests), "%d of %d requests failed, %v found an outage", s.Failed(), s.Sent, requests)
}

// TestFaultAllGone: all backends are killed and come back together. While they are gone the answer is a quick 503 and
// nobody dials; when they are back, all of them are used.
func TestFaultAllGone(t *testing.T) {
	f := startFaults(t, "breaker {\n open 1s 2s\n }")
	back := make([]*backend, 3)
	var shares [3]int64
	var gone time.Duration
	s := f.under(func() {
		start := time.Now()
		for _, b := range f.backends {
			b.kill()
		}
		f.waitBreaker("open", f.backends...)
		if !*stock {
			f.expectQuick503(100)
		}
		<-time.After(time.Second) // long enough to be asked in vain
		gone = time.Since(start)
		for i, old := range f.backends {
			back[i] = f.restart(old)
		}
		f.waitBreaker("closed", back...)
		before := counts(back)
		f.serve(2000)
		for i, n := range counts(back) {
			shares[i] = n - before[i]
		}
	})
	// Besides the requests that noticed, one is sent to each now and then to find out.
	most := 3*noticed() + 3*(1+int(gone/(800*time.Millisecond)))
	f.expect(s.Statuses[502] <= most, "%d requests were answered 502, want %d at most", s.Statuses[502], most)
	t.Logf("shares after their return: %v", shares)
	all := shares[0] + shares[1] + shares[2]
	f.expect(max(shares[0], shares[1], shares[2]) <= all/2, "shares %v after their return, want about a third each", shares)
	f.expect(f.logged("too few backends") == 0, "a panic, though nobody was left to be used in one")
}

// expectQuick503 asks n times while all backends are gone.
func (f *faults) expectQuick503(n int) {
	f.t.Helper()
	quickest := time.Hour
	for range n {
		start := time.Now()
		status, header, _ := f.get("/")
		if status == http.StatusBadGateway {
			continue // one of the few that were sent to find out
		}
		quickest = min(quickest, time.Since(start))
		after, err := strconv.Atoi(header.Get("Retry-After"))
		if status != http.StatusServiceUnavailable || err != nil || after < 1 || after > 30 {
			f.t.Fatalf("status %d, Retry-After %q; want 503 and 1 to 30", status, header.Get("Retry-After"))
		}
	}
	// A busy machine delays some of them, but not all.
	f.expect(quickest <= 10*time.Millisecond, "the quickest of %d took %v, want 10 ms at most", n, quickest)
}

// TestFaultClientsLeave: clients that leave are nobody's failure, and leave nothing behind.
func TestFaultClientsLeave(t *testing.T) {
	f := startFaults(t, "")
	var reached sync.Map // the channels to close when the requests of that name have reached a backend
	for _, b := range f.backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stay" {
				return
			}
			if ch, ok := reached.LoadAndDelete(r.Header.Get("X-Name")); ok {
				close(ch.(chan struct{}))
			}
			<-r.Context().Done()
		})
	}
	f.get("/stay")
	goroutines := func() float64 { return f.metric("go_goroutines", "") }
	before := goroutines()
	clients, each := 50, longer(40)
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for i := range each {
				name, arrived := fmt.Sprint(n, i), make(chan struct{})
				reached.Store(name, arrived)
				ctx, cancel := context.WithCancel(t.Context())
				r := f.request(http.MethodGet, nil, "X-Name", name).WithContext(ctx)
				if i%2 == 0 {
					go func() {
						<-arrived
						cancel()
					}()
				} else { // wherever the request is then
					time.AfterFunc(time.Duration(i%10)*time.Millisecond, cancel)
				}
				if res, err := client.Do(r); err == nil {
					res.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	t.Logf("%v of %d requests reached a backend before their clients left", counts(f.backends), clients*each)
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
