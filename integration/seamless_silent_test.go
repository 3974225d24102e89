package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSeamlessSilentClient: a connection is closed when the time for a header is over, whether nothing was said on it or half of that,
// and after an answer when the time for being idle is.
func TestSeamlessSilentClient(t *testing.T) {
	t.Parallel()
	p := startReloadedCaddy(t, "seamless", "load_balancer", "timeouts {\nread_header 500ms\nidle 700ms\n}\n"+seamless)
	head := "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	tests := []struct {
		name, site, says string
		handshake        bool
		least            time.Duration
	}{
		{"nothing", "plain", "", false, 400 * time.Millisecond},
		{"a byte", "plain", "G", false, 400 * time.Millisecond},
		{"half a head", "plain", head, false, 400 * time.Millisecond},
		{"one request", "plain", head + "\r\n", false, 600 * time.Millisecond},
		{"nothing on a unix socket", "unix", "", false, 400 * time.Millisecond},
		{"nothing where TLS is expected", "tls", "", false, 400 * time.Millisecond},
		{"the beginning of a handshake", "tls", "\x16\x03\x01", false, 400 * time.Millisecond},
		{"nothing but a handshake", "tls", "", true, 400 * time.Millisecond},
		{"half a head over TLS", "tls", head, true, 400 * time.Millisecond},
		{"one request over TLS", "tls", head + "\r\n", true, 600 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			network := "tcp"
			if tt.site == "unix" {
				network = "unix"
			}
			began := time.Now()
			conn, err := net.Dial(network, p.sites[tt.site])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(began.Add(patience))
			if tt.handshake {
				conn = tls.Client(conn, clientTLS("http/1.1"))
			}
			if _, err := io.WriteString(conn, tt.says); err != nil {
				t.Fatal(err)
			}
			if c, ok := conn.(*tls.Conn); ok {
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
			}
			answer, err := io.ReadAll(conn)
			if answered := strings.HasPrefix(string(answer), "HTTP/1.1 200 "); answered != strings.HasSuffix(tt.says, "\r\n\r\n") {
				t.Errorf("answered %q", answer)
			}
			took := time.Since(began)
			if errors.Is(err, os.ErrDeadlineExceeded) || took < tt.least || took > 30*time.Second {
				t.Errorf("closed after %v with %v, want %v and not much more", took, err, tt.least)
			}
		})
	}
}

// descriptors is how many descriptors the process has open.
func (c *caddy) descriptors() int {
	c.t.Helper()
	names, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "fd"))
	if err != nil {
		c.t.Fatal(err)
	}
	return len(names)
}

// cost is what a process holds.
type cost struct{ goroutines, descriptors, heap int }

// costNow collects garbage, and returns what is held then.
func (c *caddy) costNow() cost {
	c.t.Helper()
	for range 2 { // finalizers
		if status, _ := c.askAdmin("GET", "/debug/pprof/heap?gc=1"); status != 200 {
			c.t.Fatalf("status %d of the heap's profile", status)
		}
	}
	return cost{int(c.metric("go_goroutines", "")), c.descriptors(), int(c.metric("go_memstats_heap_alloc_bytes", ""))}
}

// settles waits until what is held is within most, and reports what was held at last.
func (c *caddy) settles(t *testing.T, what string, most cost) {
	t.Helper()
	var now cost
	for end := time.Now().Add(30 * time.Second); ; {
		now = c.costNow()
		if now.goroutines <= most.goroutines && now.descriptors <= most.descriptors && now.heap <= most.heap {
			t.Logf("%s: %+v", what, now)
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	_, stacks := c.askAdmin("GET", "/debug/pprof/goroutine?debug=1")
	t.Errorf("%s: %+v, want at most %+v; goroutines:\n%s", what, now, most, stacks[:min(len(stacks), 3000)])
}

// TestSeamlessSilentCost: connections on which nothing is said cost no goroutine, and next to no memory; when something is said on them
// after all, it is answered, also by a later config.
func TestSeamlessSilentCost(t *testing.T) {
	n := 2000
	if *soak {
		n = 9500 // of 20,000 descriptors that a process may have where this is written
	}
	p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
	for _, site := range []string{"plain", "tls", "unix"} {
		warm := newStrictClient(way{"", site, "h1", false, asWhole, 1}, p.sites[site], &p.epoch)
		for i := range 10 {
			warm.send(i)
		}
	}
	before := p.caddy.costNow()
	conns := make([]net.Conn, n)
	for i := range conns {
		network, site := "tcp", []string{"plain", "tls"}[i%2]
		if i%10 == 0 {
			network, site = "unix", "unix"
		}
		conn, err := net.Dial(network, p.sites[site])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	// Connections to backends may be closed meanwhile.
	waitFor(t, "nearly all connections to be accepted", func() bool { return p.caddy.descriptors() >= before.descriptors+n-n/50 })
	p.caddy.settles(t, fmt.Sprint(n, " silent connections"), cost{before.goroutines + n/100, before.descriptors + n + n/10, before.heap + n*1024})
	t.Logf("before: %+v", before)
	if err := p.next(); err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		if i%10 == 1 {
			continue // nothing, still
		}
		if i%10 != 0 && i%2 == 1 {
			conn = tls.Client(conn, clientTLS("http/1.1"))
		}
		if i%20 > 3 {
			conn.Close()
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") || !strings.Contains(string(answer), "X-Config: 1\r\n") {
			t.Fatalf("connection %d is answered %q, %v; want the new config", i, answer, err)
		}
	}
	for _, conn := range conns {
		conn.Close()
	}
	p.caddy.settles(t, "after they were closed", cost{before.goroutines + 20, before.descriptors + 20, before.heap + n*512})
}
