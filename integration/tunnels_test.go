package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// switchTo has the backend switch protocols and do that with the connection.
func switchTo(then func(conn *net.TCPConn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"); err == nil {
			then(conn.(*net.TCPConn))
		}
	}
}

// openTunnel asks for another protocol and returns the connection when it is spoken.
func openTunnel(t *testing.T, c *caddy, path string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", c.site)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n", path, c.site)
	from := bufio.NewReader(conn)
	res, err := http.ReadResponse(from, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	return conn.(*net.TCPConn), from
}

// TestTunnelSlots: when a backend has closed its side of a tunnel, its slot is free soon, whatever the client does.
func TestTunnelSlots(t *testing.T) {
	t.Parallel()
	b, control := startBackend(t), startBackend(t)
	closes := switchTo(func(*net.TCPConn) {})
	for _, b := range []*backend{b, control} {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				closes(w, r)
			}
		})
	}
	c := startCaddy(t, "handle /stock {\n reverse_proxy "+control.addr+"\n}\nhandle {\n load_balancer {\n backend "+b.addr+" {\n max_requests 1\n}\n}\n}")
	openTunnel(t, c, "/stock")
	ours, from := openTunnel(t, c, "/")
	start := time.Now()
	if _, err := from.ReadByte(); err != io.EOF {
		t.Fatalf("the client is told %v, want the end", err)
	}
	waitFor(t, "the slot to be free", func() bool { return c.pool().Backends[0].InFlight == 0 })
	took := time.Since(start)
	if status, _, _ := c.get("/"); status != http.StatusOK {
		t.Errorf("the next request is answered %d", status)
	}
	_, upstreams := c.askAdmin("GET", "/reverse_proxy/upstreams")
	t.Logf("free after %v; with reverse_proxy then: %s", took, upstreams)
	if took > time.Minute {
		t.Errorf("free after %v", took)
	}
	if _, err := ours.Write([]byte("x")); err == nil {
		_, err = ours.Write([]byte("x"))
		t.Logf("the client's connection: %v", err)
	}
}

// TestHalfClosedTunnels: while bytes pass through a tunnel that is closed on one side, it is not cut.
func TestHalfClosedTunnels(t *testing.T) {
	t.Parallel()
	const parts = 16 // half a second each, for longer than a silent one may be half closed
	send := func(to io.Writer) error {
		for range parts {
			time.Sleep(time.Second / 2)
			if _, err := io.WriteString(to, "part "); err != nil {
				return err
			}
		}
		return nil
	}
	want := strings.Repeat("part ", parts)
	got := make(chan string, 1)
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		switchTo(func(conn *net.TCPConn) {
			if r.URL.Path == "/receive" {
				_ = conn.CloseWrite()
				all, err := io.ReadAll(conn)
				got <- fmt.Sprint(string(all), err)
				return
			}
			_, _ = discard(conn) // until the client is done
			if r.URL.Path == "/answer" {
				_, _ = io.WriteString(conn, "answer")
				return
			}
			_ = send(conn)
		})(w, r)
	})
	c := startCaddy(t, "load_balancer "+b.addr)
	t.Run("the backend is done", func(t *testing.T) {
		t.Parallel()
		conn, _ := openTunnel(t, c, "/receive")
		if err := send(conn); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all := <-got; all != want+"<nil>" {
			t.Errorf("the backend got %q", all)
		}
	})
	t.Run("the client is done", func(t *testing.T) {
		t.Parallel()
		conn, from := openTunnel(t, c, "/send")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(from); string(all) != want || err != nil {
			t.Errorf("the client got %q, %v", all, err)
		}
	})
	// A client that is done as soon as it has the head is not one that has gone, though the server may still be reading ahead.
	t.Run("the client is done at once", func(t *testing.T) {
		t.Parallel()
		for range longer(500) {
			conn, from := openTunnel(t, c, "/answer")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if all, err := io.ReadAll(from); string(all) != "answer" || err != nil {
				t.Fatalf("the client got %q, %v", all, err)
			}
			conn.Close()
		}
	})
}
