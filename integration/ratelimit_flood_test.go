package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flood sends one request each for so many clients, evenly over a time. It does not look at the answers but to count them.
type flood struct {
	sent, refused atomic.Int64
}

// run returns when all have been sent, and calls failed once if that could not be done.
func (f *flood) run(c *caddy, clients int, duration time.Duration) error {
	const conns, batch = 4, 50
	errs := make(chan error, 2*conns)
	var wg sync.WaitGroup
	for w := range conns {
		conn, err := net.Dial("tcp", c.site)
		if err != nil {
			return err
		}
		defer conn.Close()
		mine := clients / conns
		wg.Go(func() { errs <- f.count(conn, mine) })
		wg.Go(func() {
			turn := time.NewTicker(duration * batch / time.Duration(mine))
			defer turn.Stop()
			var text []byte
			for i := 0; i < mine; i += batch {
				text = text[:0]
				for n := i; n < i+batch; n++ {
					id := w*mine + n
					text = fmt.Appendf(text, "GET /flood HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: 100.%d.%d.%d\r\n\r\n", c.site, 64+id>>16, id>>8&255, id&255)
				}
				if _, err := conn.Write(text); err != nil {
					errs <- err
					return
				}
				<-turn.C
			}
			errs <- nil
		})
	}
	wg.Wait()
	for range 2 * conns {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func (f *flood) count(conn net.Conn, n int) error {
	answers := bufio.NewReader(conn)
	for range n {
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		f.sent.Add(1)
		if res.StatusCode != http.StatusOK {
			f.refused.Add(1)
		}
	}
	return nil
}

// ordinary has clients of their own ask now and then while a flood lasts. It returns how long they waited, sorted, and how many
// were refused.
func ordinary(t *testing.T, c *caddy, until <-chan struct{}) (latencies []time.Duration, refused int) {
	from := clientFrom(t, "127.0.0.1")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-until:
			slices.Sort(latencies)
			return latencies, refused
		case <-tick.C:
		}
		r := c.request("GET", nil, "X-Forwarded-For", fmt.Sprintf("192.0.%d.%d", i/250%4, i%250))
		start := time.Now()
		res, err := from.Do(r)
		if err != nil {
			t.Error(err)
			continue
		}
		res.Body.Close()
		latencies = append(latencies, time.Since(start))
		if res.StatusCode != http.StatusOK {
			refused++
		}
	}
}

// liveHeap is the memory that Caddy uses after a garbage collection.
func (c *caddy) liveHeap() int64 {
	c.t.Helper()
	for range 2 {
		c.askAdmin("GET", "/debug/pprof/heap?gc=1")
	}
	return int64(c.metric("go_memstats_heap_alloc_bytes", ""))
}

// flooded is how many clients come in which time to a table of which size. Each of them makes a request that its bucket needs half of
// that time to make up for: four times as many clients as the table has room for, and twice as many in deficit at a time.
type flooded struct {
	clients, keys int
	duration      time.Duration
}

// flooding is a million clients in a minute in a soak, and a tenth of it all otherwise.
func flooding() flooded {
	if *soak {
		return flooded{1_000_000, 262_144, time.Minute}
	}
	return flooded{100_000, 26_214, 6 * time.Second}
}

// Who was over his limit stays so, and who comes anew is served, when many more clients come than there is room for.
func TestMillionClients(t *testing.T) {
	o := flooding()
	const burst = 5
	perMinute := 2 * time.Minute / o.duration
	measure := func(c *caddy, clients int, duration time.Duration) ([]time.Duration, int) {
		done := make(chan struct{})
		failed := make(chan error, 1)
		var f flood
		go func() {
			defer close(done)
			failed <- f.run(c, clients, duration)
		}()
		latencies, refused := ordinary(t, c, done)
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		if n := f.refused.Load(); n > 0 {
			t.Errorf("%d of %d of the flood refused", n, f.sent.Load())
		}
		return latencies, refused
	}
	baseline, _ := measure(startCaddyConfig(t, limitedConfig("trusted_proxies static 127.0.0.0/8\ntrusted_proxies_strict", "")), o.clients/5, o.duration/5)

	c := behindProxy(t, fmt.Sprintf("ip_rate_limit {\n zone flood\n rate %d/m\n burst %d\n max_keys %d\n}", perMinute, burst, o.keys))
	before := c.liveHeap()
	greedyDone := make(chan struct{})
	var greedy, asked atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		from := clientFrom(t, "127.0.0.1")
		for {
			select {
			case <-greedyDone:
				return
			case <-time.After(20 * time.Millisecond):
			}
			r := c.request("GET", nil, "X-Forwarded-For", "198.51.100.1")
			if res, err := from.Do(r); err == nil {
				res.Body.Close()
				asked.Add(1)
				if res.StatusCode == http.StatusOK {
					greedy.Add(1)
				}
			}
		}
	})
	latencies, refused := measure(c, o.clients, o.duration)
	close(greedyDone)
	wg.Wait()
	took := time.Since(start)
	used := c.liveHeap() - before
	q := func(l []time.Duration, q float64) time.Duration { return l[int(q*float64(len(l)-1))] }
	t.Logf("%d clients in %v: %d bytes more in use; the greedy client had %d of %d; %d ordinary requests with p50 %v, p99 %v (without a limit %v, %v)",
		o.clients, took.Round(time.Second), used, greedy.Load(), asked.Load(), len(latencies), q(latencies, .5), q(latencies, .99), q(baseline, .5), q(baseline, .99))
	if most := burst + float64(perMinute)*took.Minutes() + 1; float64(greedy.Load()) > most {
		t.Errorf("the greedy client had %d requests, want at most %.0f", greedy.Load(), most)
	}
	if refused > 0 {
		t.Errorf("%d of %d ordinary requests refused", refused, len(latencies))
	}
	most := int64(64_000_000) // for the default size
	if !*soak {
		most = most*int64(o.keys)/262_144 + 8_000_000 // Caddy's own memory counts for more then
	}
	if used > most {
		t.Errorf("%d bytes more in use, want at most %d", used, most)
	}
	// Twice the baseline is what it should be; what is added is what other work on the machine may do to one of the two. In a few
	// seconds that is all that can be seen.
	if p99 := q(latencies, .99); *soak && p99 > 2*q(baseline, .99)+20*time.Millisecond {
		t.Errorf("p99 of ordinary requests %v, want at most twice the %v without a limit", p99, q(baseline, .99))
	}
	if keys := c.limitMetric("keys", `zone="flood"`); keys > float64(o.keys) || keys < 0.75*float64(o.keys) {
		t.Errorf("%v keys, want about %d", keys, o.keys)
	}
}
