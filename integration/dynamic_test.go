package integration

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// srvTarget is the host that SRV records name. Its own addresses are always to be had.
const srvTarget = "host.example.test."

// nameServer is a real DNS server whose one name stands for what the test says.
type nameServer struct {
	addr string

	mu      sync.Mutex
	ips     []string // for A
	ports   []string // for SRV, at srvTarget
	failing bool
	fault   fault
	faulty  int // queries that it has answered so
}

// fault is what a name server does instead of answering.
type fault string

const (
	noDomain   fault = "NXDOMAIN"
	noData     fault = "no data"
	servFail   fault = "SERVFAIL"
	refused    fault = "REFUSED"
	garbage    fault = "garbage"
	silence    fault = "silence"
	noDataOf6  fault = "SERVFAIL to A, no data for AAAA" // of a name that has never had any
	noDataSlow fault = "no data for AAAA, SERVFAIL to A later"
)

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: conn.LocalAddr().String()}
	server := &dns.Server{PacketConn: conn, Handler: s}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return s
}

func (s *nameServer) set(failing bool, ips, ports []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing, s.ips, s.ports = failing, ips, ports
}

// become has the server do that from now on; "" that it answers.
func (s *nameServer) become(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.faulty = f, 0
}

// asked is how often the server has been asked since it became as it is.
func (s *nameServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faulty
}

// misbehave does what the fault says.
func (s *nameServer) misbehave(w dns.ResponseWriter, answer *dns.Msg) {
	s.faulty++
	is4 := answer.Question[0].Qtype == dns.TypeA
	rcode := map[fault]int{noDomain: dns.RcodeNameError, servFail: dns.RcodeServerFailure, refused: dns.RcodeRefused}
	answer.Rcode = rcode[s.fault]
	switch s.fault {
	case silence:
		return
	case garbage:
		broken, err := answer.Pack()
		if err != nil {
			return
		}
		broken[7] = 1 // one answer, which is not there
		_, _ = w.Write(broken)
		return
	case noDataOf6, noDataSlow:
		if is4 {
			answer.Rcode = dns.RcodeServerFailure
		}
		if is4 == (s.fault == noDataSlow) {
			go func() {
				time.Sleep(50 * time.Millisecond)
				_ = w.WriteMsg(answer)
			}()
			return
		}
	}
	_ = w.WriteMsg(answer)
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := new(dns.Msg)
	answer.SetReply(q)
	answer.Authoritative = true // an answer without data is one then
	if s.fault != "" && answer.Question[0].Name != srvTarget {
		s.misbehave(w, answer)
		return
	}
	answer.Compress = true // sixty addresses fit into one datagram then
	if s.failing {
		answer.Rcode = dns.RcodeServerFailure
		_ = w.WriteMsg(answer)
		return
	}
	header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		for _, ip := range s.ips {
			answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: net.ParseIP(ip)})
		}
	case dns.TypeSRV:
		for _, port := range s.ports {
			n, _ := strconv.ParseUint(port, 10, 16)
			answer.Answer = append(answer.Answer, &dns.SRV{Hdr: header, Target: srvTarget, Port: uint16(n), Weight: 1})
		}
	}
	_ = w.WriteMsg(answer)
}

// balancing is a load balancer over the addresses of app.example.test, with these settings besides.
func (s *nameServer) balancing(port, settings string) string {
	return "load_balancer {\n dynamic a app.example.test " + port + " {\n refresh 100ms\n resolvers " + s.addr + "\n versions ipv4\n }\n" +
		" lb_policy round_robin\n slow_start off\n " + settings + "\n}"
}

// TestEditsOfDynamicBackends: what is edited about a backend that a source names holds, whatever the source says next.
func TestEditsOfDynamicBackends(t *testing.T) {
	names := startNameServer(t)
	hosts := []string{"127.0.1.1", "127.0.1.2", "127.0.1.3"}
	backends, port := startOnOnePort(t, hosts...)
	own := startBackend(t)
	names.set(false, hosts[:2], nil)
	c := startCaddy(t, names.balancing(port, "name p"))
	if got, want := c.answers(20), backends[0].addr+" "+backends[1].addr; got != want {
		t.Fatalf("answers from %s, want %s", got, want)
	}
	c.edit("PATCH", backends[0].addr, `{"state": "drain"}`).wants(t, http.StatusOK)
	if got, want := c.answers(20), backends[1].addr; got != want {
		t.Errorf("with one drained answers from %s, want %s", got, want)
	}
	c.edit("POST", "", `{"address": "`+own.addr+`"}`).wants(t, http.StatusCreated)
	names.set(false, hosts, nil)
	want := []string{backends[1].addr, backends[2].addr, own.addr}
	slices.Sort(want)
	waitFor(t, "the third backend to be found", func() bool { return c.answers(20) == strings.Join(want, " ") })
	if m := c.edit("GET", backends[0].addr, ""); m.State != "drain" || m.Source != "dynamic" {
		t.Errorf("%+v", m)
	}
	c.remove(own.addr)
	c.edit("PATCH", backends[0].addr, `{"state": null}`).wants(t, http.StatusOK)
	all := []string{backends[0].addr, backends[1].addr, backends[2].addr}
	if got, want := c.answers(20), strings.Join(all, " "); got != want {
		t.Errorf("in the end answers from %s, want %s", got, want)
	}
}

// startOnOnePort starts backends on several loopback addresses with the same port, as A records have them.
func startOnOnePort(t *testing.T, hosts ...string) ([]*backend, string) {
	t.Helper()
	port := port(t, freeAddress(t))
	var backends []*backend
	for _, host := range hosts {
		backends = append(backends, startBackendAt(t, "tcp", net.JoinHostPort(host, port)))
	}
	return backends, port
}

// answers asks n times and returns who answered, sorted.
func (c *caddy) answers(n int) string {
	c.t.Helper()
	var seen []string
	for range n {
		status, _, body := c.get("/")
		if status != http.StatusOK {
			body = strconv.Itoa(status)
		}
		seen = append(seen, body)
	}
	slices.Sort(seen)
	return strings.Join(slices.Compact(seen), " ")
}

func TestDynamicA(t *testing.T) {
	t.Parallel()
	names := startNameServer(t)
	hosts := []string{"127.0.1.1", "127.0.1.2", "127.0.1.3"}
	backends, port := startOnOnePort(t, hosts...)
	all := []string{backends[0].addr, backends[1].addr, backends[2].addr}
	names.set(false, hosts[:2], nil)
	c := startCaddy(t, names.balancing(port, "name dyn"))
	if got, want := c.answers(20), strings.Join(all[:2], " "); got != want {
		t.Fatalf("answers from %s, want %s", got, want)
	}
	names.set(false, hosts, nil)
	waitFor(t, "the third backend to be found", func() bool { return c.answers(20) == strings.Join(all, " ") })
	before, start := counts(backends), time.Now()
	for range 30 {
		c.get("/")
	}
	slack := 2 + int64(time.Since(start)/time.Second) // a look-up in between, one a second, may restart the rotation
	for i, n := range counts(backends) {
		if got := n - before[i]; got < 10-slack || got > 10+slack {
			t.Errorf("backend %d got %d of 30", i, got)
		}
	}
	// A name server that fails takes nobody away; one that says there is nobody does.
	names.set(true, nil, nil)
	c.waitLogged("failed getting dynamic upstreams")
	if got := c.answers(20); got != strings.Join(all, " ") {
		t.Errorf("answers from %s while the name server fails, want from all that were known", got)
	}
	names.set(false, hosts[2:], nil)
	waitFor(t, "two backends to be gone", func() bool { return c.answers(10) == all[2] })
	c.waitLogged("getting dynamic upstreams again")
}

// TestDynamicNobody: no backend, and no panic, when the source has none from the start.
func TestDynamicNobody(t *testing.T) {
	for _, failing := range []bool{false, true} {
		names := startNameServer(t)
		names.set(failing, nil, nil)
		c := startCaddy(t, "load_balancer {\n dynamic a app.example.test 80 {\n refresh 100ms\n resolvers "+names.addr+"\n }\n}")
		for range 3 {
			if status, header, _ := c.get("/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
				t.Errorf("failing %v: status %d, Retry-After %q; want 503 and when to come back", failing, status, header.Get("Retry-After"))
			}
		}
	}
}

// TestDynamicFallback: backends of the config stand in for a source that cannot answer.
func TestDynamicFallback(t *testing.T) {
	names := startNameServer(t)
	names.set(true, nil, nil)
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n dynamic a app.example.test 80 {\n resolvers "+names.addr+"\n }\n}")
	if got := c.answers(3); got != b.addr {
		t.Errorf("answers from %s, want the backend of the config", got)
	}
}

func TestDynamicMulti(t *testing.T) {
	names := startNameServer(t)
	backends, _ := startBackends(t, 2)
	ports := []string{port(t, backends[0].addr), port(t, backends[1].addr)}
	names.set(false, []string{"127.0.0.1"}, ports[:1])
	c := startCaddy(t, `load_balancer {
		dynamic multi {
			srv srv.example.test {
				resolvers `+names.addr+`
			}
			a app.example.test `+ports[1]+` {
				resolvers `+names.addr+`
				versions ipv4
			}
		}
		lb_policy round_robin
		transport http {
			resolvers `+names.addr+`
		}
	}`)
	c.answers(20)
	if got := counts(backends); got[0] != 10 || got[1] != 10 {
		t.Errorf("shares = %v, want 10 for the SRV record's backend and 10 for the A record's", got)
	}
}

// TestDynamicPerRequest: a source that depends on the request is asked for each, and policies go on where they
// were for each of its answers.
func TestDynamicPerRequest(t *testing.T) {
	names := startNameServer(t)
	hosts := []string{"127.0.1.5", "127.0.1.6"}
	backends, port := startOnOnePort(t, hosts...)
	names.set(false, hosts, nil)
	c := startCaddy(t, `load_balancer {
		dynamic a {http.request.header.X-App}.example.test `+port+` {
			resolvers `+names.addr+`
			versions ipv4
		}
		lb_policy round_robin
		lb_retries 1
	}`)
	ask := func() int {
		r, err := http.NewRequest(http.MethodGet, c.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-App", "one")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for range 20 {
		if status := ask(); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	for i, n := range counts(backends) {
		if n != 10 {
			t.Errorf("backend %d got %d of 20, want 10", i, n)
		}
	}
	backends[0].kill()
	for range 10 {
		if status := ask(); status != http.StatusOK {
			t.Errorf("status %d with one of two backends gone and one retry", status)
		}
	}
}
