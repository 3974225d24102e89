package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ballastlb/ballast/ratelimit/redisstore"
)

// redisServer is a running Redis.
type redisServer struct {
	t    *testing.T
	addr string
	args []string
	cmd  *exec.Cmd
	*redis.Client
}

// startRedis runs a Redis that keeps nothing on disk.
func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	s := &redisServer{t: t, addr: freeAddress(t), args: args}
	s.Client = redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: 3})
	s.start()
	t.Cleanup(func() {
		s.Close()
		s.stop()
	})
	return s
}

func (s *redisServer) start() {
	s.t.Helper()
	args := append([]string{"--port", port(s.t, s.addr), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.t.TempDir()}, s.args...)
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	waitFor(s.t, "redis", func() bool { return canConnect(s.addr) })
}

func (s *redisServer) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *redisServer) signal(sig os.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// runs is how often the script was run.
func (s *redisServer) runs() int {
	s.t.Helper()
	text, err := s.Info(context.Background(), "commandstats").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(text) {
		var calls int
		if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%d,", &calls); err == nil {
			n += calls
		}
	}
	return n
}

// patient is what follows the URL of a Redis that will answer, at some time.
const patient = " {\n timeout 10s\n}"

// nodes are Caddys with one limit, in one Redis.
func nodes(t *testing.T, n int, limit, url string) []*caddy {
	t.Helper()
	if !strings.Contains(url, "{") {
		url += patient
	}
	var all []*caddy
	for range n {
		c := behindProxy(t, "ip_rate_limit {\n zone fleet\n "+limit+"\n redis "+url+"\n}")
		all = append(all, c)
	}
	return all
}

// hammer has workers ask all nodes in turn, as one client, for all that it can get.
func hammer(t *testing.T, all []*caddy, workers int, duration time.Duration) (claims, error) {
	t.Helper()
	from := clientFrom(t, "127.0.0.1")
	return claim(workers, duration, func(worker, turn int) (bool, error) {
		r, err := http.NewRequest(http.MethodGet, all[(worker+turn)%len(all)].url("/"), nil)
		if err != nil {
			return false, err
		}
		r.Header.Set("X-Forwarded-For", "192.0.2.1") // which counts where there is a proxy
		res, err := from.Do(r)
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		_, err = discard(res.Body)
		return res.StatusCode == http.StatusOK, err
	})
}

// Two nodes with one Redis grant together what one would.
func TestFleetIsExact(t *testing.T) {
	const rate, burst = 100, 1000
	server := startRedis(t)
	all := nodes(t, 2, fmt.Sprintf("rate %d/s\n burst %d", rate, burst), "redis://"+server.addr)
	got, err := hammer(t, all, 32, time.Duration(longer(3))*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got.check(t, rate, burst)
	for i, c := range all {
		if n := c.limitMetric("store_errors_total", `zone="fleet"`); n != 0 {
			t.Errorf("node %d: %v decisions without the store", i, n)
		}
	}
}

// IPv6 tiers, and what two limits make of one request, hold over the fleet.
func TestFleetChargesAllOrNone(t *testing.T) {
	server := startRedis(t)
	limit := "ip_rate_limit {\n zone fleet\n rate 1/h\n burst 5\n redis redis://" + server.addr + patient + "\n}\n" +
		"ip_rate_limit {\n zone second\n rate 1/h\n burst 3\n key {path}\n}"
	a, b := behindProxy(t, limit), behindProxy(t, limit)
	rotate := func(c *caddy, n, from int) int {
		passed := 0
		for i := range n {
			r, err := http.NewRequest(http.MethodGet, c.url(fmt.Sprintf("/%d", from+i)), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("2001:db8:1:%02x::1", from+i))
			if status, _ := c.ask(r); status == http.StatusOK {
				passed++
			}
		}
		return passed
	}
	if got := rotate(a, 12, 0) + rotate(b, 20, 12); got != 20 {
		t.Errorf("%d admitted in a /56 by both, want 20", got)
	}
	// Refused by the second limit, a request is given back to the first, here and in Redis.
	if got := a.admitted(9, same("X-Forwarded-For", "192.0.2.1")); got != 3 {
		t.Errorf("%d admitted, want what the second limit has, 3", got)
	}
	var key struct {
		Tokens       float64
		SharedTokens float64 `json:"shared_tokens"`
	}
	waitFor(t, "what was refused to be given back", func() bool {
		a.api("GET", "/load_balancer/rate_limits/fleet/192.0.2.1", &key)
		return key.Tokens > 1.9 && key.Tokens < 2.1 && key.SharedTokens > 1.9 && key.SharedTokens < 2.1
	})
	// Forgotten by one, it is forgotten by all.
	for _, name := range []string{"/192.0.2.1", ""} {
		if status := a.api("DELETE", "/load_balancer/rate_limits/fleet"+name, nil); status != http.StatusNoContent {
			t.Fatalf("forgetting: status %d", status)
		}
		if a.api("GET", "/load_balancer/rate_limits/fleet/192.0.2.1", &key); key.SharedTokens != 5 {
			t.Errorf("%+v, want 5 shared tokens", key)
		}
	}
	// What another node knows of a key is shown.
	b.as("X-Forwarded-For", "192.0.2.200")
	if status := a.api("GET", "/load_balancer/rate_limits/fleet/192.0.2.200", &key); status != http.StatusOK || key.Tokens != 5 || key.SharedTokens > 4.1 {
		t.Errorf("status %d, %+v, want 4 shared tokens", status, key)
	}
	if status := a.api("GET", "/load_balancer/rate_limits/fleet/192.0.2.201", nil); status != http.StatusNotFound {
		t.Errorf("status %d of a key that nobody knows, want 404", status)
	}
	if status := a.api("DELETE", "/load_balancer/rate_limits/fleet/192.0.2.200", nil); status != http.StatusNoContent {
		t.Errorf("status %d of forgetting it", status)
	}
	if n, err := server.DBSize(t.Context()).Result(); err != nil || n > 1 { // the probe's
		t.Errorf("%d keys left in Redis: %v", n, err)
	}
}

// A node that is refused by Redis keeps nothing of the request.
func TestFleetRefusalsLeaveNothing(t *testing.T) {
	server := startRedis(t)
	all := nodes(t, 2, "rate 1/h\n burst 3\n concurrency 2", "redis://"+server.addr)
	start := time.Now()
	if got := all[0].admitted(3, same("X-Forwarded-For", "192.0.2.1")); got != 3 {
		t.Fatalf("%d of 3 admitted", got)
	}
	runs := 0
	for i := range 20 {
		status, header := all[1].as("X-Forwarded-For", "192.0.2.1")
		if status != http.StatusTooManyRequests {
			t.Errorf("request %d: status %d, %v", i, status, header)
		}
		secondsLeft(t, header, 3600, start)
		if i == 0 {
			runs = server.runs()
		}
	}
	var key struct {
		InFlight int `json:"in_flight"`
	}
	if status := all[1].api("GET", "/load_balancer/rate_limits/fleet/192.0.2.1", &key); status != http.StatusOK || key.InFlight != 0 {
		t.Errorf("status %d, %+v, want nothing in flight", status, key)
	}
	// Only the first was asked for: that the others would be refused was known. A node's first probe may come late.
	if more := server.runs() - runs; more > 1 {
		t.Errorf("the script ran %d times for those that were known to be refused", more)
	}
}

// What is in Redis tells nobody who the clients are.
func TestRedisHoldsNoAddress(t *testing.T) {
	server := startRedis(t)
	c := nodes(t, 1, "rate 1/m", "redis://"+server.addr)[0]
	for _, a := range []string{"192.0.2.77", "2001:db8:77::1"} {
		c.as("X-Forwarded-For", a)
	}
	const ours = "ballast:fleet:*" // but for the probe's, which is soon gone
	keys, err := server.Keys(t.Context(), ours).Result()
	if err != nil || len(keys) != 4 {
		t.Fatalf("%d keys: %v", len(keys), err)
	}
	for _, key := range keys {
		value, err := server.Get(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, clear := range []string{"192.0.2", "2001:", "\xc0\x00\x02\x4d"} {
			if strings.Contains(key+value, clear) {
				t.Errorf("%s = %s tells an address", key, value)
			}
		}
		if ttl := server.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 17*time.Minute {
			t.Errorf("%s expires in %v", key, ttl)
		}
	}
	// With another secret nothing is found again.
	other := nodes(t, 1, "rate 1/m", "redis://"+server.addr+" {\n timeout 10s\n secret other\n}")[0]
	if got := other.admitted(3, same("X-Forwarded-For", "192.0.2.77")); got != 1 {
		t.Errorf("%d admitted, want 1", got)
	}
	if again, err := server.Keys(t.Context(), ours).Result(); err != nil || len(again) != len(keys)+1 {
		t.Errorf("%d keys after a request with another secret, %d before: %v", len(again), len(keys), err)
	}
}

// latencies asks n times, one after the other, and returns how long each took, sorted.
func (c *caddy) latencies(n int, as string) []time.Duration {
	c.t.Helper()
	all := make([]time.Duration, n)
	for i := range all {
		start := time.Now()
		c.as("X-Forwarded-For", as)
		all[i] = time.Since(start)
	}
	slices.Sort(all)
	return all
}

func TestRedisFaults(t *testing.T) {
	t.Parallel()
	// A healthy store has to answer within the timeout however busy the machine is. With the store broken, each request that waits for
	// it takes all of that, and is told from the others by it.
	const timeout, backWithin = 5 * time.Second, 20 * time.Second
	for _, tt := range []struct {
		name       string
		harm, mend func(t *testing.T, s *redisServer, p *slowProxy)
	}{
		{"stopped",
			func(_ *testing.T, s *redisServer, _ *slowProxy) { s.stop() },
			func(_ *testing.T, s *redisServer, _ *slowProxy) { s.start() }},
		{"frozen",
			func(_ *testing.T, s *redisServer, _ *slowProxy) { s.signal(syscall.SIGSTOP) },
			func(_ *testing.T, s *redisServer, _ *slowProxy) { s.signal(syscall.SIGCONT) }},
		{"slow",
			func(_ *testing.T, _ *redisServer, p *slowProxy) { p.delay.Store(int64(2 * timeout)) },
			func(_ *testing.T, _ *redisServer, p *slowProxy) { p.delay.Store(0) }},
		{"read-only",
			func(t *testing.T, s *redisServer, _ *slowProxy) {
				if err := s.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, s *redisServer, _ *slowProxy) {
				if err := s.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err(); err != nil {
					t.Fatal(err)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			proxy := startSlowProxy(t, server.addr)
			c := nodes(t, 1, "rate 1/h\n burst 5000", "redis://"+proxy.addr+" {\n timeout "+timeout.String()+"\n}")[0]
			before := c.latencies(300, "192.0.2.1")
			if n := c.limitMetric("store_errors_total", `zone="fleet"`); n != 0 {
				t.Fatalf("%v decisions without the store before the fault; the slowest of all took %v, the timeout is %v", n, before[299], timeout)
			}
			tt.harm(t, server, proxy)
			first := c.latencies(4, "192.0.2.1") // these find out
			if first[3] > 5*timeout {
				t.Errorf("the first requests took %v, want the timeout at most", first)
			}
			c.waitLogged("rate limit store is unavailable")
			during := c.latencies(300, "192.0.2.1")
			t.Logf("median %v before, %v during; p99 %v, %v", before[150], during[150], before[297], during[297])
			if during[290] >= timeout {
				t.Errorf("p97 of requests is %v: they wait for what does not answer", during[290])
			}
			// This Caddy's own buckets go on where they were: 604 of 5000 are used.
			var key struct{ Tokens float64 }
			if c.api("GET", "/load_balancer/rate_limits/fleet/192.0.2.1", &key); key.Tokens < 4396 || key.Tokens > 4398 {
				t.Errorf("%v tokens, want 4396", key.Tokens)
			}
			if n := c.limitMetric("store_errors_total", `zone="fleet"`); n < 300 {
				t.Errorf("%v decisions without the store in the metrics", n)
			}
			mended := time.Now()
			tt.mend(t, server, proxy)
			c.waitLogged("rate limit store is available again")
			if took := time.Since(mended); took > backWithin {
				t.Errorf("back after %v", took)
			}
			errors := c.limitMetric("store_errors_total", `zone="fleet"`)
			c.latencies(50, "192.0.2.1")
			if n := c.limitMetric("store_errors_total", `zone="fleet"`); n != errors {
				t.Errorf("%v more decisions without the store", n-errors)
			}
			if down, up := c.logged("store is unavailable"), c.logged("store is available again"); down != 1 || up != 1 {
				t.Errorf("%d lines of it being gone and %d of it being back, want one each", down, up)
			}
		})
	}
}

// What Redis has forgotten, and the script with it, begins anew.
func TestRedisFlushed(t *testing.T) {
	server := startRedis(t)
	all := nodes(t, 2, "rate 1/h\n burst 20", "redis://"+server.addr)
	if got := all[0].admitted(15, same("X-Forwarded-For", "192.0.2.1")); got != 15 {
		t.Fatalf("%d of 15 admitted", got)
	}
	for _, command := range []string{"FLUSHALL", "SCRIPT FLUSH"} {
		if err := server.Do(t.Context(), toAny(strings.Fields(command))...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// The other node begins with a full bucket; this one has its own to go by.
	if got := all[1].admitted(25, same("X-Forwarded-For", "192.0.2.1")); got != 20 {
		t.Errorf("%d of 25 admitted after a flush, want 20", got)
	}
	if got := all[0].admitted(10, same("X-Forwarded-For", "192.0.2.1")); got != 0 {
		t.Errorf("%d of 10 admitted by the first, want 0", got)
	}
	for _, c := range all {
		if n := c.limitMetric("store_errors_total", `zone="fleet"`); n != 0 {
			t.Errorf("%v decisions without the store", n)
		}
	}
}

func toAny(words []string) []any {
	all := make([]any, len(words))
	for i, w := range words {
		all[i] = w
	}
	return all
}

func TestRedisUnreachable(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]int{"local": 3, "allow": 10, "deny": 0} {
		t.Run(policy, func(t *testing.T) {
			url := "redis://:secret-password@" + freeAddress(t)
			if policy == "local" {
				url = "redis+sentinel://:secret-password@" + freeAddress(t) + "?master_name=m&sentinel_password=sentinel-secret"
			}
			c := nodes(t, 1, "rate 1/h\n burst 3", url+" {\n on_error "+policy+"\n}")[0]
			c.waitLogged("rate limit store is unavailable")
			if got := c.admitted(10, same("X-Forwarded-For", "192.0.2.1")); got != want {
				t.Errorf("%d of 10 admitted, want %d", got, want)
			}
			if status, header := c.as(); status == http.StatusTooManyRequests && header.Get("Retry-After") == "" {
				t.Error("refused without Retry-After")
			}
			if strings.Contains(c.log.String(), "secret-password") {
				t.Error("the log tells the password")
			}
			if strings.Contains(c.log.String(), "sentinel-secret") {
				t.Error("the log tells the password of the sentinels")
			}
			if n := strings.Count(c.log.String(), "\nredis: "); n > 0 {
				t.Errorf("%d lines of the client in the log", n)
			}
		})
	}
}

// A command whose answer is lost is not sent again: it may have been run. Clients of clusters do that unless they are told.
func TestLostAnswersAreNotAskedForAgain(t *testing.T) {
	t.Parallel()
	front := freeAddress(t)
	bus := freeAddress(t)
	server := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", port(t, bus), "--cluster-config-file", filepath.Join(t.TempDir(), "nodes"),
		"--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", port(t, front))
	if err := server.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the cluster", func() bool { return strings.Contains(server.ClusterInfo(t.Context()).Val(), "cluster_state:ok") })
	proxy := startSlowProxyAt(t, front, server.addr)
	s, err := redisstore.New(redisstore.Options{URL: "redis+cluster://" + front, Timeout: 10 * time.Second, Changed: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	take := func() error {
		_, err := s.Take("lost", []byte("k"), []redisstore.Bucket{{Key: []byte("k"), Rate: 0.001, Burst: 100}})
		return err
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	// Only answers of this zone: the store's first probe may come late, and would find that there is no server.
	zone := "ballast:lost:"
	proxy.cut.Store(&zone)
	if err := take(); err == nil {
		t.Error("an answer that was lost")
	}
	proxy.cut.Store(nil)
	answer, err := s.Look("lost", []byte("k"), redisstore.Bucket{Key: []byte("k"), Rate: 0.001, Burst: 100})
	if err != nil || answer.Tokens < 97.9 || answer.Tokens > 98.1 {
		t.Errorf("%v tokens of 100 left after two were taken: %v", answer.Tokens, err)
	}
}

// Another rate keeps how full a bucket is in Redis, too.
func TestRedisReload(t *testing.T) {
	server := startRedis(t)
	config := func(limit string) string {
		return limitedConfig("", "ip_rate_limit {\n zone fleet\n "+limit+"\n redis redis://"+server.addr+patient+"\n}")
	}
	c := startCaddyConfig(t, config("rate 1/h\n burst 10"))
	c.admitted(6, same())
	if err := c.reload(config("rate 2/h\n burst 100")); err != nil {
		t.Fatal(err)
	}
	var key struct {
		Tokens       float64
		SharedTokens float64 `json:"shared_tokens"`
	}
	c.api("GET", "/load_balancer/rate_limits/fleet/127.0.0.1", &key)
	if key.Tokens < 39.9 || key.Tokens > 40.2 || key.SharedTokens < 39.9 || key.SharedTokens > 40.2 {
		t.Errorf("%+v, want 40 of 100 in both", key)
	}
	if got := c.admitted(50, same()); got != 40 {
		t.Errorf("%d of 50 admitted, want 40", got)
	}
}

// The store by itself: as exact at high rates, with the server's clock.
func TestStoreIsExact(t *testing.T) {
	const rate, burst = 700, 3500 // a token in 1428.57 µs, of which Redis counts whole ones
	server := startRedis(t)
	var all []*redisstore.Store
	for range 2 {
		s, err := redisstore.New(redisstore.Options{URL: "redis://" + server.addr, Timeout: 10 * time.Second, Changed: func(err error) { t.Error("store changed:", err) }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		all = append(all, s)
	}
	got, err := claim(128, time.Duration(longer(2))*time.Second, func(worker, _ int) (bool, error) {
		answer, err := all[worker%2].Take("z", []byte("k"), []redisstore.Bucket{{Key: []byte("k"), Rate: rate, Burst: burst}})
		return answer.Refused == 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	got.check(t, rate, burst)
}

// The clock of a Redis may be set back: nothing is granted for it, and nobody is locked out until it has caught up.
func TestRedisClockSetBack(t *testing.T) {
	server := startRedis(t)
	s, err := redisstore.New(redisstore.Options{URL: "redis://" + server.addr, Timeout: 10 * time.Second, Changed: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	buckets := []redisstore.Bucket{{Key: []byte("k"), Rate: 10, Burst: 2}}
	take := func() redisstore.Result {
		t.Helper()
		answer, err := s.Take("clock", []byte("k"), buckets)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	take()
	take()
	keys, err := server.Keys(t.Context(), "ballast:clock:*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v: %v", keys, err)
	}
	// As if it had been written an hour from now, by the clock as it was then.
	ahead := time.Now().Add(time.Hour).UnixMicro()
	if err := server.Set(t.Context(), keys[0], fmt.Sprintf("%d 200000 200000", ahead), time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	refused := time.Now()
	if answer := take(); answer.Refused != 1 || answer.Wait > 100*time.Millisecond {
		t.Errorf("got %+v, want it refused for a tenth of a second", answer)
	}
	waitFor(t, "the next token", func() bool { return take().Refused == 0 })
	if took := time.Since(refused); took < 50*time.Millisecond || took > 20*time.Second {
		t.Errorf("a token after %v, want 100 ms", took)
	}
}

// The ways to reach a Redis: over TLS, by a unix socket, with a password, a cluster, by sentinels.
func TestRedisURLs(t *testing.T) {
	t.Parallel()
	certificate, key := selfSigned(t)
	t.Run("TLS and password", func(t *testing.T) {
		tlsAddr := freeAddress(t)
		startRedis(t, "--tls-port", port(t, tlsAddr), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no", "--requirepass", "s3cret")
		waitFor(t, "redis over TLS", func() bool { return canConnect(tlsAddr) })
		limitsByRedis(t, "rediss://default:s3cret@"+tlsAddr+"/3?skip_verify=true")
	})
	t.Run("unix socket", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "redis.sock")
		startRedis(t, "--unixsocket", socket)
		limitsByRedis(t, "unix://"+socket+"?db=1")
	})
	t.Run("cluster", func(t *testing.T) {
		const half = 8192 // of the slots
		servers, buses := make([]*redisServer, 2), make([]string, 2)
		for i := range servers {
			buses[i] = freeAddress(t)
			servers[i] = startRedis(t, "--cluster-enabled", "yes", "--cluster-port", port(t, buses[i]), "--cluster-config-file", filepath.Join(t.TempDir(), "nodes"))
			if err := servers[i].Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", i*half, i*half+half-1).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := servers[0].Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", port(t, servers[1].addr), port(t, buses[1])).Err(); err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			waitFor(t, "the cluster", func() bool {
				info := s.ClusterInfo(t.Context()).Val()
				return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:2")
			})
		}
		limitsByRedis(t, "redis+cluster://"+servers[0].addr+"?addr="+servers[1].addr)
	})
	t.Run("sentinel", func(t *testing.T) {
		server := startRedis(t, "--requirepass", "s3cret")
		sentinel := freeAddress(t)
		config := filepath.Join(t.TempDir(), "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %s 1\nsentinel auth-pass main s3cret\nrequirepass sentinels\n", port(t, sentinel), t.TempDir(), port(t, server.addr))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("redis-server", config, "--sentinel")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		waitFor(t, "the sentinel", func() bool { return canConnect(sentinel) })
		limitsByRedis(t, "redis+sentinel://:s3cret@"+sentinel+"/2?master_name=main&sentinel_password=sentinels")
	})
}

// limitsByRedis checks that two nodes limit together by that URL.
func limitsByRedis(t *testing.T, url string) {
	t.Helper()
	all := nodes(t, 2, "rate 1/h\n burst 5", url+patient)
	got := 0
	for i := range 12 {
		got += all[i%2].admitted(1, same("X-Forwarded-For", "2001:db8::1"))
	}
	if got != 5 {
		t.Errorf("%d of 12 admitted by both, want 5", got)
	}
	for _, c := range all {
		if n := c.limitMetric("store_errors_total", `zone="fleet"`); n != 0 {
			t.Errorf("%v decisions without the store", n)
		}
	}
}

// slowProxy passes on what comes, late.
type slowProxy struct {
	addr  string
	delay atomic.Int64
	cut   atomic.Pointer[string] // answers to what has this in it are lost, and the connection with them
}

func startSlowProxy(t *testing.T, target string) *slowProxy {
	t.Helper()
	return startSlowProxyAt(t, freeAddress(t), target)
}

func startSlowProxyAt(t *testing.T, address, target string) *slowProxy {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &slowProxy{addr: l.Addr().String()}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(in, target)
		}
	}()
	return p
}

func (p *slowProxy) pass(in net.Conn, target string) {
	defer in.Close()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	var lost atomic.Bool
	go func() {
		defer out.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			cut := p.cut.Load()
			lost.Store(cut != nil && bytes.Contains(buf[:n], []byte(*cut)))
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := out.Read(buf)
		if err != nil || lost.Load() {
			return
		}
		<-time.After(time.Duration(p.delay.Load())) // the fault itself: nothing waits for it to be over
		if _, err := in.Write(buf[:n]); err != nil {
			return
		}
	}
}

// selfSigned makes a certificate that nobody should trust.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: bytes}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
