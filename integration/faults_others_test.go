//go:build trust && linux

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// other is a line of the table that is measured in a way of its own. It returns what to say of each contender.
type other struct {
	name, bar string
	measure   func(t *testing.T) map[string]string
}

var others = []other{
	{"one of three gRPC backends UNAVAILABLE at once", "5 % of 600 calls after the first 200", measureGRPC},
	{"50 edits in 10 s", "failed 0, in force within 50 ms", measureEdits},
	{"50 reloads", "failed 0", measureReloads},
	{"SIGTERM with 100 in flight", "all 100 complete", measureSIGTERM},
	{"Redis stopped", "added latency 5 ms at most (p99), back in 5 s", measureRedis},
	{"storage full", "failed 0, the edit says so, and is stored when there is room", measureFull},
	{"1,000 members checked each second", "10 % of a core at most, checks spread", measureChecks},
	{"many clients, table of the rate limiter too small", "ordinary ones served, limited ones stay so, memory bounded", asTest(TestMillionClients)},
	{"kill -9 while edits are written", "every confirmed edit is there", asTest(TestKilledWhileWriting)},
	{"16 writers with If-Match", "none lost, stale ones refused", asTest(TestWritersAndReloads)},
	{"edits of all kinds under load", "failed 0, nothing to a drained backend", asTest(TestEditsUnderLoad)},
}

// asTest is a test that there is, and that knows its bar.
func asTest(test func(t *testing.T)) func(t *testing.T) map[string]string {
	return func(t *testing.T) map[string]string {
		if !t.Run("test", test) {
			return map[string]string{ours: "missed"}
		}
		return map[string]string{ours: "passed"}
	}
}

// runOther adds a line to the table.
func (f *faultTable) runOther(t *testing.T, o other) {
	r := faultRow{name: o.name, bar: o.bar}
	ok := t.Run(o.name, func(t *testing.T) {
		r.cells = o.measure(t)
		t.Log(r.cells)
	})
	if r.missed = !ok; len(r.cells) > 0 {
		f.rows = append(f.rows, r)
	}
}

func measureGRPC(t *testing.T) map[string]string {
	const first, more, workers = 200, 600, 4
	cells := make(map[string]string)
	for _, c := range contenders {
		if c.eager {
			continue
		}
		backends, addresses := startGRPCs(t, 3)
		plain := make([]string, len(backends))
		for i, b := range backends {
			plain[i] = b.addr
			if i > 0 {
				fine := answersWith(grpccodes.OK, false)
				b.handle(func(srv any, stream grpc.ServerStream) error {
					takes(stream.Context(), 2*time.Millisecond) // longer than it takes to fail at once
					return fine(srv, stream)
				})
			}
		}
		backends[0].handle(answersWith(grpccodes.Unavailable, false))
		var site string
		if c.name == "HAProxy" {
			site, _ = startHAProxyWith(t, haproxyWords{bind: "proto h2", server: "check proto h2"}, plain...)
		} else {
			site, _ = c.start(t, "", strings.Fields(addresses))
		}
		conn, err := grpc.NewClient(site, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		load := func(n int) {
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for range n / workers {
						call(ctx, conn)
					}
				})
			}
			wg.Wait()
		}
		load(first)
		before := backends[0].calls.Load()
		load(more)
		cancel()
		got := backends[0].calls.Load() - before
		cells[c.name] = fmt.Sprintf("%d of %d calls", got, more)
		if c.ours && got > more/20 {
			t.Errorf("the backend that fails got %d of %d calls, want %d at most", got, more, more/20)
		}
	}
	return cells
}

func measureEdits(t *testing.T) map[string]string {
	var late atomic.Int64
	x := &trial{T: t, contender: contenders[0], faultScenario: faultScenario{happens: func(x *trial) {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for n := range 50 {
			<-tick.C
			m := x.members[n%3]
			if n%2 == 1 {
				x.caddy.edit("PATCH", x.members[(n-1)%3].addr, `{"state": "ready"}`).wants(t, http.StatusOK)
				continue
			}
			x.caddy.edit("PATCH", m.addr, `{"state": "drain", "reason": "deploy"}`).wants(t, http.StatusOK)
			inForce := time.Now().Add(50 * time.Millisecond)
			x.pass(150 * time.Millisecond)
			late.Add(int64(m.between(inForce, time.Now())))
		}
	}}}
	x.run()
	x.note("%d sent to a drained backend 50 ms later", late.Load())
	for _, wrong := range x.within(0, 0, 100*time.Millisecond) {
		t.Error(wrong)
	}
	if late.Load() > 0 {
		t.Errorf("%d requests were sent to a drained backend", late.Load())
	}
	x.checkInvariants()
	return map[string]string{ours: x.cell()}
}

func measureReloads(t *testing.T) map[string]string {
	var ways []way
	for _, w := range lossWays {
		switch w.name {
		case "plain, keep-alive", "plain, new connection each", "TLS HTTP/1.1, keep-alive", "TLS HTTP/1.1, new connections":
			w.rate /= 4 // all at once
			ways = append(ways, w)
		}
	}
	proxies := map[string]*reloaded{
		ours: startReloadedCaddy(t, ours, "load_balancer", seamless), "reverse_proxy": startReloadedCaddy(t, "reverse_proxy", "reverse_proxy", ""), "HAProxy": startReloadedHAProxy(t),
	}
	cells := make(map[string]string)
	for name, p := range proxies {
		rows, samples := underReloads(t, p, ways, 50, 260*time.Millisecond)
		var parts []string
		for _, r := range rows {
			parts = append(parts, fmt.Sprintf("%s %d of %d", r.way.name, r.failed, r.requests))
		}
		cells[name] = strings.Join(parts, "; ")
		t.Log(name, ": ", cells[name])
		if name == ours {
			judgeLosses(t, rows, samples)
		}
	}
	return cells
}

func measureSIGTERM(t *testing.T) map[string]string {
	cells := make(map[string]string)
	for _, c := range contenders {
		if c.eager || strings.Contains(c.name, ",") {
			continue // nothing is tried again
		}
		members, addresses := make([]*member, 3), make([]string, 3)
		for i := range members {
			members[i] = startMember(t)
			addresses[i] = members[i].addr
			members[i].tell("slow")
		}
		var site, with string
		var process *exec.Cmd
		signal := syscall.SIGTERM
		var ended <-chan struct{}
		if c.name == "HAProxy" {
			site, process = startHAProxyWith(t, haproxyWords{server: "check"}, addresses...)
			signal, with = syscall.SIGUSR1, " with SIGUSR1 (SIGTERM aborts all)"
		} else {
			caddy := startCaddyConfig(t, map[bool]string{
				true:  siteConfig("load_balancer " + strings.Join(addresses, " ")),
				false: strings.Replace(siteConfig("reverse_proxy "+strings.Join(addresses, " ")), seamless, "", 1),
			}[c.ours])
			site, process, ended = caddy.site, caddy.cmd, caddy.ended
		}
		const n = 100
		var good atomic.Int64
		var wg sync.WaitGroup
		transport := &http.Transport{DisableKeepAlives: true}
		for i := range n {
			wg.Go(func() {
				r, err := http.NewRequest(http.MethodGet, "http://"+site+"/", nil)
				if err != nil {
					return
				}
				r.Header.Set(idHeader, strconv.Itoa(i))
				res, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
				if err != nil {
					return
				}
				defer res.Body.Close()
				if size, err := discard(res.Body); err == nil && res.StatusCode == http.StatusOK && size == 2 {
					good.Add(1)
				}
			})
		}
		waitFor(t, "all requests to be on their way", func() bool { return len(copies(members)) == n })
		if err := process.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if ended != nil {
			<-ended
		}
		cells[c.name] = fmt.Sprintf("%d of %d", good.Load(), n) + with
		if c.ours && good.Load() != n {
			t.Errorf("%d of %d requests ended well", good.Load(), n)
		}
	}
	return cells
}

func measureRedis(t *testing.T) map[string]string {
	server := startRedis(t)
	c := nodes(t, 1, "rate 1/h\n burst 5000", "redis://"+server.addr)[0]
	before := c.latencies(500, "192.0.2.1")
	server.stop()
	stopped := c.latencies(500, "192.0.2.1")
	server.start()
	back := time.Now()
	c.waitLogged("rate limit store is available again")
	took := time.Since(back)
	median, p99 := stopped[250]-before[250], stopped[495]-before[495]
	if p99 > 5*time.Millisecond {
		t.Errorf("p99 of requests was %v, and %v with Redis stopped; want 5 ms more at most", before[495], stopped[495])
	}
	if took > 5*time.Second {
		t.Errorf("back after %v, want 5 s at most", took)
	}
	return map[string]string{ours: fmt.Sprintf("median %+.1f ms, p99 %+.1f ms, longest %s, back after %s", median.Seconds()*1000, p99.Seconds()*1000, short(stopped[499]), short(took))}
}

// measureFull has Caddy write no more bytes to any file, which it sees as it sees a full disk: each write fails.
func measureFull(t *testing.T) map[string]string {
	stored := "not said"
	x := &trial{T: t, contender: contenders[0], faultScenario: faultScenario{happens: func(x *trial) {
		var was unix.Rlimit
		if err := unix.Prlimit(x.caddy.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}, &was); err != nil {
			t.Fatal(err)
		}
		answer := x.caddy.edit("PATCH", x.members[0].addr, `{"weight": 3}`)
		answer.wants(t, http.StatusOK)
		if answer.Weight != 3 {
			t.Errorf("weight %d, want 3: the edit is to be in force", answer.Weight)
		}
		switch {
		case answer.Persisted == nil:
			t.Errorf("the edit does not say whether it is stored: %s", answer.body)
		case *answer.Persisted:
			t.Error("the edit says it is stored, and there is no room for it")
		default:
			stored = "said that it is not stored"
		}
		x.pass(3 * time.Second)
		if err := unix.Prlimit(x.caddy.cmd.Process.Pid, unix.RLIMIT_FSIZE, &was, nil); err != nil {
			t.Fatal(err)
		}
		room := time.Now()
		waitFor(t, "the edit to be stored", func() bool { return strings.Contains(x.caddy.stored(), x.members[0].addr) })
		x.note("%s, stored %s after there was room", stored, short(time.Since(room)))
	}}}
	x.run()
	for _, wrong := range x.within(0, 0, 100*time.Millisecond) {
		t.Error(wrong)
	}
	x.checkInvariants()
	return map[string]string{ours: x.cell()}
}
