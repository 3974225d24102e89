//go:build trust

package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the environment says of a soak.
var (
	soakFor  = soakSetting("SOAK", 30*time.Minute, time.ParseDuration)
	soakRate = soakSetting("SOAK_RATE", 200, strconv.Atoi) // requests per second
	soakSeed = soakSetting("SOAK_SEED", rand.Uint64(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
)

func soakSetting[T any](name string, otherwise T, parse func(string) (T, error)) T {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := parse(text)
	if err != nil {
		panic(fmt.Sprintf("%s=%s: %v", name, text, err))
	}
	return value
}

const (
	// soakCycle is the time between two rests.
	soakCycle = 30 * time.Second
	// soakWarm is how long caches, tables and pools of buffers may take to have the size that they keep.
	soakWarm = 5 * time.Minute
	// soakSlope is how much memory may grow, in bytes in ten minutes.
	soakSlope = 1 << 20
	// soakFlat is how many goroutines or descriptors there may be more of after ten minutes: fewer than a leak by one kind of event would
	// leave.
	soakFlat = 10
)

// soakPools are the pools, and the places of their backends among those of the soak.
var soakPools = map[string][]int{"web": {0, 1, 2}, "live": {0, 1, 2}, "cart": {3, 4}, "only": {5}, "calls": {7, 8}}

const (
	soakGuest     = 6 // the backend that edits add to the pool live and take away again
	soakProcesses = 7 // so many of the backends are processes; the others are gRPC servers
)

// soaking is a soak.
type soaking struct {
	*caddy
	t     *testing.T
	rnd   *rand.Rand // of the timeline
	start time.Time

	backends []*soakBackend
	calls    []*grpcBackend
	faults   faultLog
	requests string            // the file with the access log
	sites    map[string]string // addresses by name: plain, off (no express lane), tls, flood
	config   func(variant int) string
	clients  soakClients

	asking   sync.Mutex // held while the admin endpoint is asked or replaced
	watching sync.Mutex // held while there are watchers

	mu       sync.Mutex // guards the fields below
	kinds    map[string]*soakCount
	reasons  map[string]int // failed requests by explanation
	mystery  []soakMystery  // those without one
	events   map[string]int
	heldBack int // requests that were due when there were too many already
	samples  []soakSample
}

// soakCount is what became of the requests of a kind.
type soakCount struct {
	sent, good, left, limited, failed int
	longest                           time.Duration
}

// TestSoak has real processes under load for half an hour, or for SOAK, while they are killed, stopped and broken, configs are reloaded,
// pools edited and servers flooded. Every request that fails must be explained by what was done to the backends of its pool just then;
// the counters must add up whenever the load rests; and goroutines, descriptors and memory must not grow.
func TestSoak(t *testing.T) {
	s := startSoak(t)
	t.Logf("%v at %d requests per second, SOAK_SEED=%d", soakFor, soakRate, soakSeed)
	w := s.watch(t)
	w.tally, w.repeats, w.forgets = newLogTally(s.requests), true, map[string]bool{"live": true}
	for cycle := 0; time.Since(s.start) < soakFor && !t.Failed(); cycle++ {
		end := s.load()
		s.timeline(s.start.Add(min(time.Duration(cycle+1)*soakCycle, soakFor)))
		end()
		s.rest(w)
	}
	w.stop()
	if w.samples == 0 {
		t.Error("nothing was seen of what is in flight")
	}
	s.report()
}

// startSoak starts the backends and Caddy.
func startSoak(t *testing.T) *soaking {
	t.Helper()
	s := &soaking{
		t: t, requests: filepath.Join(t.TempDir(), "requests"), rnd: rand.New(rand.NewPCG(soakSeed, 1)), kinds: make(map[string]*soakCount), reasons: make(map[string]int), events: make(map[string]int),
		sites: map[string]string{"off": freeAddress(t), "tls": freeAddress(t), "flood": freeAddress(t)},
	}
	processes, addresses := startProcesses(t, soakProcesses)
	for i, cmd := range processes {
		s.backends = append(s.backends, &soakBackend{t: t, n: i, cmd: cmd, address: addresses[i], faults: &s.faults})
	}
	s.calls, _ = startGRPCs(t, 2)
	for i, b := range s.calls {
		s.backends = append(s.backends, &soakBackend{t: t, n: soakProcesses + i, address: b.addr, faults: &s.faults, call: b})
	}
	certificate, key := selfSigned(t)
	s.config = func(variant int) string { return s.caddyfile(certificate, key, variant) }
	s.caddy = startCaddyConfig(t, s.config(0))
	s.sites["plain"] = s.site
	s.clients.start(s)
	s.start = time.Now()
	return s
}

// soakVariants are settings of the pool web and of the server that differ from one config to the next.
var soakVariants = [][2]string{
	{"", ""}, {"lb_policy round_robin", "timeouts {\n idle 45s\n}"}, {"lb_policy least_conn\n header_up X-Variant 2", ""}, {"hedge 95% 2%", ""},
	{"lb_policy hash {client_ip}", "max_header_size 32KB"}, {"retry {\n attempts 3\n}", ""}, {"header_down X-Variant 6", "timeouts {\n read_header 20s\n}"},
}

func (s *soaking) caddyfile(certificate, key string, variant int) string {
	v := soakVariants[variant%len(soakVariants)]
	list := func(pool string) string {
		var all []string
		for _, n := range soakPools[pool] {
			all = append(all, s.backends[n].address)
		}
		return strings.Join(all, " ")
	}
	// Connections that are kept are closed soon, so that there are none when the load rests.
	quick := "slow_start 1s\n transport http {\n keepalive 2s\n}\n breaker {\n open 500ms 2s\n}\n"
	check := "health_check {\n http /healthz\n interval 2s\n fast_interval 500ms\n timeout 1s\n rise 1\n fall 2\n}\n"
	servers := func(name, protocols, wrapper string) string {
		address := s.sites[name]
		if address == "" {
			address = "SITE_ADDRESS"
		}
		return fmt.Sprintf("servers %s {\n protocols %s\n %s\n %s\n}\n", address, protocols, v[1], wrapper)
	}
	requests := "log {\n output file " + s.requests + " {\n roll_disabled\n}\n format filter {\n request>headers delete\n request>tls delete\n resp_headers delete\n wrap json\n}\n}\n"
	body := requests +
		"handle /limited/* {\n ip_rate_limit {\n zone soak\n rate 10/s\n burst 10\n}\n import web\n}\n" +
		"handle /cart/* {\n load_balancer " + list("cart") + " {\n name cart\n" + quick + "lb_policy sticky {\n secret s0akings3cret\n}\n}\n}\n" +
		"handle /live/* {\n load_balancer " + list("live") + " {\n name live\n" + quick + "health_check {\n tcp\n interval 1s\n}\n}\n}\n" +
		"handle /only/* {\n load_balancer " + list("only") + " {\n name only\n" + quick + "}\n}\n" +
		"handle /test.Echo/* {\n load_balancer h2c://" + strings.ReplaceAll(list("calls"), " ", " h2c://") + " {\n name calls\n" + quick + "}\n}\n" +
		"handle_path /board/* {\n load_balancer_dashboard\n}\n" +
		"handle {\n import web\n}\n"
	return "{\n admin ADMIN_ADDRESS\n persist_config off\n auto_https off\n log {\n level ERROR\n}\n" +
		servers("plain", "h1 h2c", expressOn) + servers("off", "h1 h2c", expressOff) + servers("tls", "h1 h2", expressOn) +
		"servers " + s.sites["flood"] + " {\n trusted_proxies static 127.0.0.0/8\n client_ip_headers X-Forwarded-For\n " + expressOn + "\n}\n}\n" +
		"(web) {\n load_balancer " + list("web") + " {\n name web\n" + quick + check + v[0] + "\n}\n}\n" +
		"http://SITE_ADDRESS {\n bind 127.0.0.1\n" + body + "}\n" +
		"http://" + s.sites["off"] + " {\n bind 127.0.0.1\n" + body + "}\n" +
		"https://" + s.sites["tls"] + " {\n bind 127.0.0.1\n tls " + certificate + " " + key + "\n" + body + "}\n" +
		"http://" + s.sites["flood"] + " {\n bind 127.0.0.1\n ip_rate_limit {\n zone flood\n rate 1/m\n max_keys 4096\n}\n respond ok\n}\n"
}

// rest waits until nothing is going on, looks whether the counters add up, and takes a sample.
func (s *soaking) rest(w *watched) {
	s.t.Helper()
	s.clients.rest()
	w.agree(func() map[string]int64 {
		got := make(map[string]int64)
		for _, b := range s.calls {
			got[b.addr] = b.calls.Load()
		}
		return got
	})
	client.CloseIdleConnections()
	s.sample(true)
}

// report prints what has happened, and fails the test if it must not have.
func (s *soaking) report() {
	s.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%v, SOAK_SEED=%d\n| requests | sent | answered | left by the client | refused by the limit | failed | longest |\n|---|---|---|---|---|---|---|\n", time.Since(s.start).Round(time.Second), soakSeed)
	sum := soakCount{}
	for _, name := range slices.Sorted(maps.Keys(s.kinds)) {
		k := s.kinds[name]
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %v |\n", name, k.sent, k.good, k.left, k.limited, k.failed, k.longest.Round(time.Millisecond))
		sum.sent, sum.good, sum.left, sum.limited, sum.failed = sum.sent+k.sent, sum.good+k.good, sum.left+k.left, sum.limited+k.limited, sum.failed+k.failed
		sum.longest = max(sum.longest, k.longest)
		if name == limitedKind && k.limited == 0 {
			s.t.Error("no request was refused by the limit")
		}
		if k.good+k.left == 0 {
			s.t.Errorf("no request of the kind %q was answered", name)
		}
	}
	fmt.Fprintf(&b, "| all | %d | %d | %d | %d | %d | %v |\n\n| failures by explanation | |\n|---|---|\n", sum.sent, sum.good, sum.left, sum.limited, sum.failed, sum.longest.Round(time.Millisecond))
	for _, reason := range slices.Sorted(maps.Keys(s.reasons)) {
		fmt.Fprintf(&b, "| %s | %d |\n", reason, s.reasons[reason])
	}
	fmt.Fprintf(&b, "| unexplained | %d |\n| not sent, too many at a time | %d |\n\n| event | |\n|---|---|\n", len(s.mystery), s.heldBack)
	for _, event := range slices.Sorted(maps.Keys(s.events)) {
		fmt.Fprintf(&b, "| %s | %d |\n", event, s.events[event])
	}
	b.WriteString("\n" + s.slopes())
	s.t.Logf("%s", b.String())
	if len(s.mystery) > 0 {
		log, err := os.ReadFile(s.requests)
		if err != nil {
			s.t.Error(err)
		}
		s.t.Errorf("%d failures are unexplained", len(s.mystery))
		for _, m := range s.mystery[:min(len(s.mystery), 20)] {
			s.t.Logf("%s\n%s", m.text, m.logged(log))
		}
	}
}
