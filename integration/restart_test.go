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

// restartRate is how many requests each proxy gets per second while its backends restart.
const restartRate = 200

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

// load sends requests to all proxies for that time, GET and POST in turn.
func (o *outage) load(d time.Duration) {
	if o.start.IsZero() {
		o.start = time.Now()
	}
	ticker := time.NewTicker(time.Second / restartRate)
	defer ticker.Stop()
	end := time.Now().Add(d)
	for n := 0; time.Now().Before(end); n++ {
		<-ticker.C
		method := []string{http.MethodGet, http.MethodPost}[n%2]
		for _, f := range o.fronts {
			o.inFlight.Go(func() {
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

// TestLongOutage: an outage that is older than `hold` is answered 503 at once, and over soon after it is over.
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
	for _, name := range slices.Sorted(maps.Keys(o.fronts)) {
		f := o.fronts[name]
		late := f.between(from+hold+300*time.Millisecond, to-50*time.Millisecond)
		var took []time.Duration
		for _, s := range late {
			took = append(took, s.took)
		}
		slices.Sort(took)
		if len(took) == 0 {
			t.Fatalf("%s: no requests during the outage", name)
		}
		median, back := took[len(took)/2], f.backAfter(to)
		t.Logf("down for %v: %s: back after %v; %d requests after the first %v: %v, quickest %v, median %v", down, name, back.Round(time.Millisecond),
			len(late), hold, failures(late), took[0].Round(time.Microsecond), median.Round(time.Microsecond))
		if f.control {
			continue
		}
		// It is 1.1 s at most where the machine has time.
		if back > 2500*time.Millisecond {
			t.Errorf("%s: back after %v, want a second at most", name, back)
		}
		if name == "lb_try_duration" {
			continue // it waits for as long as that says
		}
		for _, s := range late {
			if s.status != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d after %v of an outage", name, s.status, s.at-from)
				break
			}
		}
		if took[0] > 10*time.Millisecond || median > 200*time.Millisecond {
			t.Errorf("%s: the quickest 503 took %v, the median %v; want 10 ms", name, took[0], median)
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
