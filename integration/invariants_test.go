package integration

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// watched is a Caddy whose counters are to add up, whatever happens to its backends. What must hold:
//
//   - no request is in flight less than not at all, and none is when all is over;
//   - attempts = requests + attempts made again + copies, but for the requests that found no backend, for which there was no attempt. The
//     access log tells those;
//   - each attempt ends once: it is a success, a failure or ignored, has a duration, and is a selection of its backend;
//   - retries are attempts made again. The other way round it need not be so: an attempt after a connection that could not be made is
//     no retry if the request waited for it, or if the budget was spent, since nothing had been sent;
//   - metrics and access log say the same, status by status and backend by backend;
//   - no backend has got fewer requests than it is said to have answered, nor more than there were attempts;
//   - goroutines, descriptors and memory are those from before.
type watched struct {
	*caddy
	t *testing.T

	// What the test that watches sets.

	// tally counts the access log of all requests (see logTo). Without it, less is compared.
	tally *logTally
	// repeats says that connections to backends are kept, and may break: a request over one that had been used before is then repeated on
	// another one by the transport, which is no attempt of its own, but a second request to the backend.
	repeats bool
	// forgets are the pools of which the API resets backends, or removes some: their counters go with them.
	forgets map[string]bool
	// slack is how much more than before may be held afterwards.
	slack cost

	before  cost
	stopped chan struct{}
	sampler sync.WaitGroup
	samples int
}

// watch begins to watch c, in which nothing must be going on.
func (c *caddy) watch(t *testing.T) *watched {
	t.Helper()
	client.CloseIdleConnections()
	w := &watched{caddy: c, t: t, before: c.costNow(), stopped: make(chan struct{})}
	backends := len(series(c.scrape(), "caddy_load_balancer_in_flight"))
	// Up to 32 connections are kept to a backend, with two goroutines each where net/http carries the requests. Memory has the buffers of
	// these, and what the tables of the process have grown by.
	w.slack = cost{goroutines: 20 + backends*32*2, descriptors: 10 + backends*32, heap: 8<<20 + backends*32*16<<10}
	w.sampler.Go(w.sample)
	t.Cleanup(w.stop)
	return w
}

// logTo is the part of a site that writes its access log to a file of its own, for a tally.
func logTo(file string) string {
	return "log {\n output file " + file + " {\n roll_disabled\n }\n format json\n}\n"
}

// sample looks at what is in flight, until it is stopped.
func (w *watched) sample() {
	for {
		select {
		case <-w.stopped:
			return
		case <-time.After(100 * time.Millisecond):
		}
		text, err := fetch("http://" + w.admin + "/metrics")
		if err != nil {
			continue // the endpoint is being replaced
		}
		w.samples++
		for _, gauge := range []string{"in_flight", "queue_length", "held_requests"} {
			for of, n := range series(text, "caddy_load_balancer_"+gauge) {
				if n < 0 {
					w.t.Errorf("%s of %s is %v", gauge, of, n)
				}
			}
		}
	}
}

func (w *watched) stop() {
	select {
	case <-w.stopped:
	default:
		close(w.stopped)
	}
	w.sampler.Wait()
}

// atRest ends the watching, and fails the test if something does not hold. All clients must have had their answers or left. requests says
// how many requests backends have got, by their names, as far as they were counted; it may lag behind the answers.
func (w *watched) atRest(requests func() map[string]int64) {
	w.t.Helper()
	w.stop()
	if w.samples == 0 {
		w.t.Error("nothing was seen while it ran")
	}
	w.agree(requests)
	client.CloseIdleConnections()
	w.settles(w.t, "at rest", cost{w.before.goroutines + w.slack.goroutines, w.before.descriptors + w.slack.descriptors, w.before.heap + w.slack.heap})
	w.t.Logf("before: %+v", w.before)
}

// agree waits until all counters add up: requests are counted and logged a moment after their clients have the answer.
func (w *watched) agree(requests func() map[string]int64) {
	w.t.Helper()
	var wrong []string
	for end := time.Now().Add(20 * time.Second); ; {
		wrong = w.disagreements(requests())
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Errorf("at rest:\n%s", strings.Join(wrong, "\n"))
}

// disagreements lists what does not add up now.
func (w *watched) disagreements(requests map[string]int64) []string {
	w.t.Helper()
	a := &account{watched: w, text: w.scrape(), attempts: make(map[string]int), answered: make(map[string]int)}
	if w.tally != nil {
		if err := w.tally.read(); err != nil {
			w.t.Fatal(err)
		}
	}
	var all []poolState
	if status := w.api(http.MethodGet, "/load_balancer/pools", &all); status != http.StatusOK {
		w.t.Fatalf("status %d of the pools", status)
	}
	for _, p := range all {
		a.pool(p)
	}
	for name, got := range requests {
		most := int64(a.attempts[name])
		if least := int64(a.answered[name]); got < least {
			a.wrong("%s got %d requests, but is said to have answered %d", name, got, least)
		}
		if got > most && !w.repeats && len(w.forgets) == 0 {
			a.wrong("%s got %d requests by %d attempts", name, got, most)
		}
	}
	return a.list
}

// account is what the metrics tell at a moment, and what is wrong with it.
type account struct {
	*watched
	text     string
	attempts map[string]int // by backend
	answered map[string]int // attempts with an answer, by backend
	list     []string
}

func (a *account) wrong(format string, args ...any) {
	a.list = append(a.list, fmt.Sprintf(format, args...))
}

// of is the sum of a metric with these labels, which are given as name and value in turn.
func (a *account) of(metric string, labels ...string) int {
	pairs := make([]string, 0, len(labels)/2)
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", pair[0], pair[1]))
	}
	return total(a.text, "caddy_load_balancer_"+metric, pairs...)
}

// pool checks what is counted of a pool.
func (a *account) pool(p poolState) {
	requests, attempts := a.of("requests_total", "pool", p.Name), a.of("attempts_total", "pool", p.Name)
	again, copies := a.of("attempts_repeated_total", "pool", p.Name), a.of("hedges_sent_total", "pool", p.Name)
	if retries := a.of("retries_total", "pool", p.Name) - a.of("retries_total", "pool", p.Name, "reason", "hedge"); retries > again && !a.forgets[p.Name] {
		a.wrong("%s: %d retries, but %d attempts were made again", p.Name, retries, again)
	}
	if won := a.of("hedges_won_total", "pool", p.Name); won > copies {
		a.wrong("%s: %d of %d copies won", p.Name, won, copies)
	}
	for _, gauge := range []string{"in_flight", "queue_length", "held_requests"} {
		if n := a.of(gauge, "pool", p.Name); n != 0 {
			a.wrong("%s: %s is %d", p.Name, gauge, n)
		}
	}
	logged := &loggedPool{}
	if a.tally != nil {
		if logged = a.tally.pools[p.Name]; logged == nil {
			logged = &loggedPool{}
		}
		a.poolLog(p.Name, logged, again+copies)
	}
	switch unattempted := requests + again + copies - attempts; {
	case a.forgets[p.Name]:
	case a.tally != nil && unattempted != logged.unattempted:
		a.wrong("%s: %d attempts, for %d requests, %d attempts made again and %d copies; the log tells of %d requests without an attempt",
			p.Name, attempts, requests, again, copies, logged.unattempted)
	case unattempted < 0 || unattempted > a.refused(p.Name):
		a.wrong("%s: %d attempts, for %d requests, %d attempts made again and %d copies; %d requests were answered with an error",
			p.Name, attempts, requests, again, copies, a.refused(p.Name))
	}
	for _, b := range p.Backends {
		seen := logged.backends[b.Name]
		if seen == nil {
			seen = new(loggedBackend)
		}
		a.backend(p.Name, b.Name, int(b.Requests), seen, copies > 0)
	}
}

// refused is how many requests were answered with an error, or not at all.
func (a *account) refused(pool string) (n int) {
	for labels, value := range series(a.text, "caddy_load_balancer_requests_total", fmt.Sprintf("pool=%q", pool)) {
		if !strings.Contains(labels, `code="1`) && !strings.Contains(labels, `code="2`) && !strings.Contains(labels, `code="3`) {
			n += int(value)
		}
	}
	return n
}

// poolLog compares what is counted of requests with what the access log tells.
func (a *account) poolLog(pool string, logged *loggedPool, again int) {
	counted := make(map[int]int)
	for labels, n := range series(a.text, "caddy_load_balancer_requests_total", fmt.Sprintf("pool=%q", pool)) {
		_, code, _ := strings.Cut(labels, `code="`)
		code, _, _ = strings.Cut(code, `"`)
		if status, _ := strconv.Atoi(code); n > 0 {
			counted[status] = int(n)
		}
	}
	if !maps.Equal(counted, logged.statuses) {
		a.wrong("%s: answers %v are counted, %v logged", pool, counted, logged.statuses)
	}
	if again != logged.again && !a.forgets[pool] {
		a.wrong("%s: %d attempts were made again or are copies, %d in the log", pool, again, logged.again)
	}
}

// backend checks what is counted of a backend. selected is how often the API says that it was chosen; hedged says that the pool has sent
// copies: one that is canceled may be logged before its answer is known.
func (a *account) backend(pool, name string, selected int, logged *loggedBackend, hedged bool) {
	labels := []string{"pool", pool, "backend", name}
	attempts := a.of("attempts_total", labels...)
	a.attempts[name] += attempts
	if selected != attempts && !a.forgets[pool] {
		a.wrong("%s: %s was selected %d times for %d attempts", pool, name, selected, attempts)
	}
	if ended := a.of("attempt_duration_seconds_count", append(labels, "phase", "total")...); ended != attempts {
		a.wrong("%s: %d durations of %d attempts at %s", pool, ended, attempts, name)
	}
	answered := a.of("responses_total", labels...)
	a.answered[name] += answered
	if headers := a.of("attempt_duration_seconds_count", append(labels, "phase", "first_byte")...); headers != answered || answered > attempts {
		a.wrong("%s: %d headers and %d answers to %d attempts at %s", pool, headers, answered, attempts, name)
	}
	if calls := a.of("grpc_responses_total", labels...); calls > attempts {
		a.wrong("%s: %d gRPC calls in %d attempts at %s", pool, calls, attempts, name)
	}
	if detected, enforced := a.of("ejections_total", append(labels, "mode", "detected")...), a.of("ejections_total", append(labels, "mode", "enforced")...); enforced > detected {
		a.wrong("%s: %s was taken out %d times, for %d reasons", pool, name, enforced, detected)
	}
	if a.tally == nil || a.forgets[pool] {
		return
	}
	if attempts != logged.attempts {
		a.wrong("%s: %d attempts at %s, %d in the log", pool, attempts, name, logged.attempts)
	}
	if hedged {
		return
	}
	if again := a.of("attempts_repeated_total", labels...); again != logged.attempts-logged.last {
		a.wrong("%s: %d attempts at %s were made again, %d in the log", pool, again, name, logged.attempts-logged.last)
	}
	for class, n := range logged.classes {
		if got := a.of("responses_total", append(labels, "class", fmt.Sprintf("%dxx", class))...); class > 0 && got != n {
			a.wrong("%s: %d answers of %s with %dxx, %d in the log", pool, got, name, class, n)
		}
	}
}
