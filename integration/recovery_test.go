package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestRecoveredBackendHasItsShare: a backend that was killed under load, and is back, has its share again not later than a slow start and a
// second after it accepts connections, whatever its breaker has made of its death.
func TestRecoveredBackendHasItsShare(t *testing.T) {
	const slowStart, away = 2 * time.Second, time.Second
	f := startFaults(t, "slow_start 2s")
	b := f.backends[0]
	var again *backend
	var took time.Duration
	s := f.under(func() {
		b.kill()
		<-time.After(away)
		again = f.restart(b)
		back := time.Now()
		// A share of three hundred requests; that of all backends is the same, but for chance.
		for share := 0.0; share < 0.8 && time.Since(back) < patience; {
			mine, all := again.requests.Load(), f.served.Load()
			waitFor(t, "three hundred requests", func() bool { return f.served.Load() >= all+300 })
			share = 3 * float64(again.requests.Load()-mine) / float64(f.served.Load()-all)
			took = time.Since(back)
		}
	})
	t.Logf("within 20 %% of its share %v after it was back", took)
	// A busy machine serves the requests that are counted late.
	f.expect(took <= slowStart+time.Second+time.Second, "within 20 %% of its share only %v after it was back", took)
	f.expect(s.Failed() == 0, "%d of %d requests failed", s.Failed(), s.Sent)
}

// stopCheck is a check that soon finds a stopped backend, which accepts connections.
const stopCheck = " name p\n lb_policy round_robin\n health_check {\n http /healthz 2xx\n interval 2s\n fast_interval 1s\n timeout 1s\n fall 2\n }\n"

// TestStoppedBackendLosesWhatWaits: requests that wait for a process that is stopped are answered by another one as soon as a check has found
// out. One that must not be sent twice waits until the process goes on. No bound is set.
func TestStoppedBackendLosesWhatWaits(t *testing.T) {
	t.Parallel()
	for name, wrappers := range map[string]string{"express lane": expressOn, "handler": expressOff} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			processes, addresses := startProcesses(t, 3)
			site := "load_balancer " + strings.Join(addresses, " ") + " {\n" + stopCheck + "}"
			c := startCaddyConfig(t, strings.Replace(siteConfig(site), seamless, wrappers, 1))
			goOn := func() { _ = processes[0].Process.Signal(syscall.SIGCONT) }
			c.losesWhatWaits(addresses, func() { suspend(t, processes[0].Process) }, goOn)
		})
	}
}

// TestHangingBackendLosesWhatWaits does the same over HTTP/2, with a backend that answers nothing.
func TestHangingBackendLosesWhatWaits(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 3)
	addresses := make([]string, len(backends))
	for i, b := range backends {
		addresses[i] = b.addr
	}
	c := startCaddy(t, "load_balancer h2c://"+strings.Join(addresses, " h2c://")+" {\n"+stopCheck+"}")
	released := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(released) })
	t.Cleanup(goOn)
	c.losesWhatWaits(addresses, func() {
		backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-released:
			case <-r.Context().Done():
			}
			w.Header().Set("X-Backend", addresses[0])
		})
	}, goOn)
}

// TestSilentHostLosesWhatWaits: requests wait at a host that no longer answers connections, as one without power. They are answered by another
// backend as soon as an attempt to connect has shown that. Nothing is checked.
func TestSilentHostLosesWhatWaits(t *testing.T) {
	t.Parallel()
	silent, other := silentHost(t), startBackend(t)
	c := startCaddy(t, "load_balancer "+silent+" "+other.addr+" {\n name p\n lb_policy round_robin\n transport http {\n dial_timeout 200ms\n }\n}")
	const n = 20
	var wg sync.WaitGroup
	start := time.Now()
	for range n {
		wg.Go(func() {
			if status, _, body := c.get("/"); status != http.StatusOK {
				t.Errorf("status %d: %s", status, body)
			}
		})
	}
	wg.Wait()
	retries := c.metrics(`caddy_load_balancer_retries_total{.*reason="(\w+)"`)
	t.Logf("all were answered after %v; retries %v", time.Since(start), retries)
	// Those that found no connection were sent on at once.
	if retries["timeout"] == 0 || retries["connect"] == 0 || retries["timeout"]+retries["connect"] > n/2 {
		t.Errorf("retries %v, want at least one for each, of %d", retries, n/2)
	}
}

// silentHost returns the address of a socket to which the system makes one or two connections, which nobody serves, and then none: it
// does not answer those who try.
func silentHost(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", at.(*syscall.SockaddrInet4).Port)
}

// losesWhatWaits has the first of three backends stop, and go on when others have answered what may be sent again.
func (c *caddy) losesWhatWaits(addresses []string, stop, goOn func()) {
	c.t.Helper()
	send := func(method string, n int) *answered {
		a := &answered{by: make(map[string]int)}
		for range n {
			a.Go(func() {
				res, err := client.Do(c.request(method, nil))
				if err != nil {
					a.add(err.Error())
					return
				}
				res.Body.Close()
				a.add(strings.TrimPrefix(strings.TrimSpace(res.Header.Get("X-Backend")+" "+strings.TrimPrefix(res.Status, "200 OK")), "h2c://"))
			})
		}
		return a
	}
	for _, a := range addresses {
		waitFor(c.t, "all to be used", func() bool {
			_, header, _ := c.get("/")
			return header.Get("X-Backend") == a
		})
	}
	stop()
	const n = 12
	posts, held := send(http.MethodPost, n), 0
	waitFor(c.t, "some POSTs at it, and the others answered", func() bool {
		held = c.inFlightAt(addresses[0])
		return held > 0 && posts.count()+held == n
	})
	gets, waiting := send(http.MethodGet, n), 0
	waitFor(c.t, "some GETs at it, and the others answered", func() bool {
		waiting = c.inFlightAt(addresses[0]) - held
		return waiting > 0 && gets.count()+waiting == n
	})
	start := time.Now()
	gets.Wait()
	c.t.Logf("%d GETs that waited were answered after %v: %v", waiting, time.Since(start), gets.by)
	if gets.by[addresses[1]]+gets.by[addresses[2]] != n {
		c.t.Errorf("GET was answered by %v, want the other two", gets.by)
	}
	if still := c.inFlightAt(addresses[0]); still != held {
		c.t.Errorf("it holds %d requests, want the %d POSTs", still, held)
	}
	goOn()
	posts.Wait()
	if posts.by[addresses[0]] != held || posts.count() != n {
		c.t.Errorf("POST was answered by %v, want %d by %s", posts.by, held, addresses[0])
	}
	if again := c.metrics(`caddy_load_balancer_retries_total{.*reason="(\w+)"`)["timeout"]; int(again) != waiting {
		c.t.Errorf("%v retries for timeout, want %d", again, waiting)
	}
}

// inFlightAt is how many requests are at that backend.
func (c *caddy) inFlightAt(address string) int {
	for label, n := range c.metrics(`caddy_load_balancer_in_flight{backend="([^"]+)"`) {
		if strings.HasSuffix(label, address) {
			return int(n)
		}
	}
	return -1
}

// answered counts answers.
type answered struct {
	sync.WaitGroup

	mu sync.Mutex // guards by
	by map[string]int
}

func (a *answered) add(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by[by]++
}

func (a *answered) count() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.by {
		n += k
	}
	return n
}
