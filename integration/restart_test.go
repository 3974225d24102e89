package integration

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// restartRate is how many requests each proxy gets per second while its backends restart, and restartPace how many of reverse_proxy's,
// which never waits, may be on their way then. A machine that cannot keep up has fewer requests, and not more at a time: they would
// wait for each other, and for longer than for any backend.
const (
	restartRate = 200
	restartPace = 4
)

// restartFronts are the ways in which a load balancer may be set up, each with its settings. All are to lose nothing.
var restartFronts = map[string]string{
	"default":         "",
	"breaker off":     "breaker off",
	"check":           "health_check {\n tcp\n interval 5s\n timeout 4s\n}",
	"lb_try_duration": "lb_try_duration 5s",
}

// outage is a set of backends that restart, and proxies in front of them: those above, the same with a dynamic source, and for
// comparison reverse_proxy and, where it is installed, HAProxy. All see the same.
type outage struct {
	t        *testing.T
	backends []*backend
	fronts   map[string]*front
	client   *http.Client
	start    time.Time
	inFlight sync.WaitGroup
}

// front is a proxy, with what became of its requests.
type front struct {
	url     string
	control bool // it is not judged
	mu      sync.Mutex
	seen    []restartSample
}

// restartSample is one request.
type restartSample struct {
	method   string
	at, took time.Duration // at since the beginning
	status   int           // 0 if there was no answer
}

// prepareOutage starts n backends and the proxies. settings are added to all load balancers.
func prepareOutage(t *testing.T, n int, settings string) *outage {
	t.Helper()
	hosts := []string{"127.0.3.1", "127.0.3.2", "127.0.3.3"}[:n]
	names := startNameServer(t)
	o := &outage{t: t, fronts: make(map[string]*front)}
	var port string
	o.backends, port = startOnOnePort(t, hosts...)
	names.set(false, hosts, nil)
	addresses := make([]string, n)
	for i, b := range o.backends {
		addresses[i] = b.addr
	}
	all := strings.Join(addresses, " ")
	sites := make(map[string]string)
	for name, with := range restartFronts {
		sites[name] = "load_balancer " + all + " {\n" + settings + "\n" + with + "\n}"
	}
	// A source that depends on the request is asked for each, and not checked.
	for name, host := range map[string]string{"dynamic": "app.example.test", "dynamic by request": "{http.vars.app}"} {
		sites[name] = "vars app app.example.test\nload_balancer {\n dynamic a " + host + " " + port + " {\n refresh 1s\n resolvers " + names.addr +
			"\n versions ipv4\n}\n" + settings + "\n}"
	}
	sites["reverse_proxy"] = "reverse_proxy " + all
	var config strings.Builder
	for name, site := range sites {
		fmt.Fprintf(&config, "handle_path /%s {\n%s\n}\n", strings.ReplaceAll(name, " ", "-"), site)
	}
	c := startCaddy(t, config.String())
	for name := range sites {
		o.fronts[name] = &front{url: c.url("/" + strings.ReplaceAll(name, " ", "-")), control: name == "reverse_proxy"}
	}
	if site := startHAProxy(t, addresses...); site != "" {
		o.fronts["haproxy"] = &front{url: "http://" + site + "/", control: true}
	}
	o.client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	t.Cleanup(o.client.CloseIdleConnections)
	for name, f := range o.fronts {
		waitFor(t, name+" to serve", func() bool { return o.ask(f, http.MethodGet) == http.StatusOK })
	}
	return o
}

// ask sends a request and returns the answer's status, 0 if there is none.
func (o *outage) ask(f *front, method string) int {
	var body *strings.Reader
	if body = strings.NewReader(""); method == http.MethodPost {
		body = strings.NewReader("something to be kept")
	}
	r, err := http.NewRequest(method, f.url, body)
	if err != nil {
		return 0
	}
	res, err := o.client.Do(r)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if _, err := discard(res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}

// load sends requests to all proxies for that time, GET and POST in turn, one to each at the same moment.
func (o *outage) load(d time.Duration) {
	if o.start.IsZero() {
		o.start = time.Now()
	}
	ticker := time.NewTicker(time.Second / restartRate)
	defer ticker.Stop()
	pace := make(chan struct{}, restartPace)
	end := time.Now().Add(d)
	for n := 0; time.Now().Before(end); n++ {
		<-ticker.C
		pace <- struct{}{}
		method := []string{http.MethodGet, http.MethodPost}[n%2]
		for name, f := range o.fronts {
			o.inFlight.Go(func() {
				if name == "reverse_proxy" {
					defer func() { <-pace }()
				}
				began := time.Now()
				s := restartSample{method: method, at: began.Sub(o.start), status: o.ask(f, method)}
				s.took = time.Since(began)
				f.mu.Lock()
				f.seen = append(f.seen, s)
				f.mu.Unlock()
			})
		}
	}
}

// restart kills all backends, has the load go on, and starts them again. Nothing is on its way to them when they are killed: what a
// backend takes down with it is another matter. It returns between which times they were gone.
func (o *outage) restart(down time.Duration) (from, to time.Duration) {
	o.inFlight.Wait()
	from = time.Since(o.start)
	for _, b := range o.backends {
		b.kill()
	}
	o.load(down)
	to = time.Since(o.start)
	for i, b := range o.backends {
		o.backends[i] = startBackendAt(o.t, "tcp", b.addr)
	}
	return from, to
}

// between are the requests of a proxy that were sent in that time.
func (f *front) between(from, to time.Duration) (some []restartSample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if s.at >= from && s.at < to {
			some = append(some, s)
		}
	}
	return some
}

// failures tells how the requests ended that did not end well, by method and status.
func failures(samples []restartSample) map[string]int {
	bad := make(map[string]int)
	for _, s := range samples {
		if s.status != http.StatusOK {
			bad[fmt.Sprint(s.method, " ", s.status)]++
		}
	}
	return bad
}

// backAfter is how long after that time the first request was answered well that had been sent or answered since.
func (f *front) backAfter(to time.Duration) time.Duration {
	first := patience
	for _, s := range f.between(0, 1<<62) {
		if end := s.at + s.took; s.status == http.StatusOK && end >= to {
			first = min(first, end-to)
		}
	}
	return first
}

// TestRestart: backends that restart together cost no request, whatever its method, if they are back soon.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			o := prepareOutage(t, n, "")
			o.load(200 * time.Millisecond)
			for _, down := range []time.Duration{300 * time.Millisecond, time.Second} {
				from, to := o.restart(down)
				o.load(600 * time.Millisecond)
				o.inFlight.Wait()
				for _, name := range slices.Sorted(maps.Keys(o.fronts)) {
					f := o.fronts[name]
					sent := f.between(from, time.Since(o.start))
					bad := failures(sent)
					t.Logf("%d backends, down for %v: %s: %d requests, failed: %v, back after %v", n, down, name, len(sent), bad, f.backAfter(to).Round(time.Millisecond))
					// A machine that was busy with something else has made another outage of it.
					if !f.control && len(bad) > 0 && to-from < down+500*time.Millisecond {
						t.Errorf("%d backends, down for %v: %s: %v failed, want none", n, down, name, bad)
					}
				}
			}
		})
	}
}

// refusing are the requests of a proxy that were sent while it knew that the outage was older than `hold`: after the first 503 had
// come, and before that time. It also returns when that 503 came, or that time if none did.
func (f *front) refusing(until time.Duration) (late []restartSample, first time.Duration) {
	first = until
	for _, s := range f.between(0, until) {
		if s.status == http.StatusServiceUnavailable {
			first = min(first, s.at+s.took)
		}
	}
	return f.between(first, until), first
}

// quickestAndMedian are of how long these requests took.
func quickestAndMedian(samples []restartSample) (quickest, median time.Duration) {
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.took
	}
	slices.Sort(took)
	return took[0], took[len(took)/2]
}

// TestLongOutage: an outage that is older than `hold` is answered 503 at once, and over soon after it is over. What is at once and
// soon on this machine is told by reverse_proxy, which is asked at the same moments, has just as much to do for its 502 and never
// waits for a backend.
func TestLongOutage(t *testing.T) {
	t.Parallel()
	hold, down := 500*time.Millisecond, 1800*time.Millisecond
	if *soak {
		hold, down = 2*time.Second, 5*time.Second
	}
	o := prepareOutage(t, 1, "hold "+hold.String())
	o.load(200 * time.Millisecond)
	from, to := o.restart(down)
	o.load(1500 * time.Millisecond)
	o.inFlight.Wait()
	control := o.fronts["reverse_proxy"]
	controlBack := control.backAfter(to)
	for _, name := range slices.Sorted(maps.Keys(o.fronts)) {
		f := o.fronts[name]
		back := f.backAfter(to)
		t.Logf("down for %v: %s: back after %v; failed of %d requests since: %v", down, name, back.Round(time.Millisecond),
			len(f.between(from, 1<<62)), failures(f.between(from, 1<<62)))
		if f.control {
			continue
		}
		// The dead are tried again after 1.1 s at most.
		if back > controlBack+2*time.Second {
			t.Errorf("%s: back after %v, reverse_proxy after %v; want a second more at most", name, back, controlBack)
		}
		if name == "lb_try_duration" {
			continue // it waits for as long as that says
		}
		late, first := f.refusing(to)
		if first < from+hold {
			t.Errorf("%s: status 503 after %v of an outage, which is to be waited for", name, first-from)
		}
		if len(late) == 0 {
			t.Errorf("%s: no requests after the first 503, which came after %v of an outage of %v", name, first-from, to-from)
			continue
		}
		for _, s := range late {
			// One that was answered after the outage may have come to Caddy after it.
			if s.status != http.StatusServiceUnavailable && s.at+s.took < to {
				t.Errorf("%s: status %d after %v of an outage", name, s.status, s.at-from)
				break
			}
		}
		quickest, median := quickestAndMedian(late)
		quickestOfControl, medianOfControl := quickestAndMedian(control.between(first, to))
		t.Logf("%s: first 503 after %v, then %d requests: quickest %v, median %v; reverse_proxy %v, %v", name, (first - from).Round(time.Millisecond),
			len(late), quickest, median, quickestOfControl, medianOfControl)
		const more = 10 * time.Millisecond
		if quickest > 2*quickestOfControl+more || median > 2*medianOfControl+more {
			t.Errorf("%s: the quickest 503 took %v, the median %v; reverse_proxy's 502 took %v and %v; want 10 ms more at most",
				name, quickest, median, quickestOfControl, medianOfControl)
		}
	}
}

// TestCheckElsewhere: a check of another address than the backend's own that is refused makes no backend dead, nor does one that
// passes make one live.
func TestCheckElsewhere(t *testing.T) {
	t.Parallel()
	b, watcher, nobody := startBackend(t), startBackend(t), freeAddress(t)
	_, nobodysPort, _ := net.SplitHostPort(nobody)
	const quick = "interval 100ms\n timeout 80ms\n"
	sites := map[string]string{
		"port":     "load_balancer " + b.addr + " {\n name port\n health_check {\n tcp\n port " + nobodysPort + "\n " + quick + " }\n}",
		"upstream": "load_balancer " + b.addr + " {\n name upstream\n health_check {\n http /\n upstream " + nobody + "\n " + quick + " }\n}",
		"stock":    "load_balancer " + b.addr + " {\n name stock\n health_uri /\n health_port " + nobodysPort + "\n health_interval 100ms\n health_timeout 80ms\n}",
		// The control, which is not judged.
		"reverse_proxy": "reverse_proxy " + b.addr + " {\n health_uri /\n health_port " + nobodysPort + "\n health_interval 100ms\n health_timeout 80ms\n}",
		"passing":       "load_balancer " + nobody + " {\n name passing\n hold 100ms\n health_check {\n http /\n upstream " + watcher.addr + "\n " + quick + " }\n}",
	}
	var config strings.Builder
	for name, site := range sites {
		fmt.Fprintf(&config, "handle_path /%s {\n%s\n}\n", name, site)
	}
	c := startCaddy(t, config.String())
	for _, name := range []string{"port", "upstream", "stock"} {
		c.waitLogged("backend is down", `"pool":"`+name+`"`)
		for range 3 {
			if status, _, _ := c.get("/" + name); status != http.StatusOK {
				t.Errorf("%s: status %d from a backend that serves", name, status)
			}
		}
	}
	status, _, _ := c.get("/reverse_proxy")
	t.Logf("reverse_proxy answers %d", status)
	// Nobody is there, whatever the check says: found once, it is known.
	waitFor(t, "a check that passes", func() bool { return watcher.requests.Load() > 0 })
	c.get("/passing")
	probes := watcher.requests.Load()
	waitFor(t, "more checks that pass", func() bool { return watcher.requests.Load() >= probes+5 })
	waitFor(t, "a backend to be up by a check elsewhere, and out because it cannot be reached", func() bool {
		b := c.poolNamed("passing").Backends[0]
		return !b.Usable && b.Reason == "cannot be reached" && b.Health == "up"
	})
}
