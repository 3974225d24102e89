package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// callers are the balancers that asked a backend, for probes and for clients; each is known by a field of the header.
type callers struct {
	mu       sync.Mutex
	probes   map[string]int
	requests map[string]int
}

func (c *callers) counts() (probes, requests map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	probes, requests = make(map[string]int), make(map[string]int)
	for name, n := range c.probes {
		probes[name] = n
	}
	for name, n := range c.requests {
		requests[name] = n
	}
	return probes, requests
}

func (c *callers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/healthz" {
		c.probes[r.Header.Get("X-Balancer")]++
	} else {
		c.requests[r.Header.Get("X-Balancer")]++
	}
}

// startFleet starts so many balancers with so many backends.
func startFleet(t *testing.T, balancers, backends int, subset string) (fleet []*caddy, all []*backend, asked []*callers) {
	t.Helper()
	all, addresses := startBackends(t, backends)
	for _, b := range all {
		c := &callers{probes: make(map[string]int), requests: make(map[string]int)}
		asked = append(asked, c)
		b.handle(c.ServeHTTP)
	}
	for i := range balancers {
		fleet = append(fleet, startCaddyConfig(t, siteConfig(fmt.Sprintf(`load_balancer %s {
			name p
			lb_policy round_robin
			%s
			header_up X-Balancer {env.ORDINAL}
			health_check {
				http /healthz
				header X-Balancer {env.ORDINAL}
				interval 200ms
				fast_interval 100ms
			}
		}`, addresses, subset)), fmt.Sprint("ORDINAL=", i)))
	}
	return fleet, all, asked
}

// subsetPool is what the API tells of a pool with a subset.
type subsetPool struct {
	Usable   int
	Subset   struct{ Size, Of, Chosen, Further, Peer, Peers int }
	Backends []struct{ Address string }
}

func (c *caddy) subset() (p subsetPool) {
	c.t.Helper()
	c.api(http.MethodGet, "/load_balancer/pools/p", &p)
	return p
}

// TestSubsetFleet: six balancers with thirty backends, of which each uses ten. Two balancers check each backend, and use it, and no
// others do; together they give all backends the same load.
func TestSubsetFleet(t *testing.T) {
	t.Parallel()
	const each = 200
	fleet, _, asked := startFleet(t, 6, 30, "subset 10 {\n peer {env.ORDINAL} of 6\n }")
	for _, c := range fleet {
		waitFor(t, "the subset to be checked", func() bool { return c.subset().Usable == 10 })
		for range each {
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
		}
	}
	for i, a := range asked {
		probes, requests := a.counts()
		n := 0
		for name, count := range requests {
			if n += count; probes[name] == 0 {
				t.Errorf("backend %d is used by %s, which does not check it", i, name)
			}
		}
		if len(probes) != 2 || len(requests) != 2 {
			t.Errorf("backend %d is checked by %v and used by %v", i, probes, requests)
		}
		if n != 6*each/30 {
			t.Errorf("backend %d had %d requests", i, n)
		}
	}
}

// TestSubsetOutage: all backends of a subset are gone, and no client is told; when they are back, the others are left alone.
func TestSubsetOutage(t *testing.T) {
	t.Parallel()
	fleet, all, _ := startFleet(t, 1, 30, "subset 3")
	c := fleet[0]
	waitFor(t, "the subset to be checked", func() bool { return c.subset().Usable == 3 })
	own := make(map[string]bool)
	for _, b := range c.subset().Backends {
		own[b.Address] = true
	}
	for _, b := range all {
		if own[b.addr] {
			b.kill()
		}
	}
	for range 50 {
		if status, _, _ := c.get("/"); status != http.StatusOK {
			t.Fatalf("status %d while most backends live", status)
		}
	}
	if p := c.subset(); p.Subset.Chosen != 3 || p.Subset.Further != 3 || p.Usable != 3 {
		t.Errorf("%+v", p)
	}
	if text := c.log.String(); strings.Count(text, "no backend of the subset is usable") != 1 {
		t.Error("the log does not tell of it once")
	}
	for address := range own {
		startBackendAt(t, "tcp", address)
	}
	waitFor(t, "the subset to be used alone", func() bool { p := c.subset(); return p.Subset.Further == 0 && p.Usable == 3 })
}

// TestSubsetDynamic: the subset is one of what a dynamic source names, and others are used while nobody in it can be reached.
func TestSubsetDynamic(t *testing.T) {
	t.Parallel()
	names := startNameServer(t)
	b := startBackend(t)
	var all []string
	for i := range 10 {
		all = append(all, fmt.Sprintf("127.0.9.%d", i+1)) // where nobody listens
	}
	names.set(false, all, nil)
	c := startCaddy(t, "load_balancer {\n name p\n subset 3\n health_check {\n tcp\n interval 200ms\n fast_interval 100ms\n }\n"+
		names.dynamicSources(port(t, b.addr))["a"]+"}")
	waitFor(t, "the subset to be chosen", func() bool { p := c.subset(); return p.Subset.Of == 10 && p.Subset.Chosen == 3 })
	waitFor(t, "others to be used", func() bool { p := c.subset(); return p.Subset.Further == 3 && len(p.Backends) == 6 })
	names.set(false, append(all, "127.0.0.1"), nil)
	waitFor(t, "the one that can be reached to be found", func() bool {
		status, _, _ := c.get("/")
		return status == http.StatusOK
	})
}
