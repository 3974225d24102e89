package integration

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mixed is a site with requests that are left to Caddy: answered there, balanced there, and failed there.
func mixed(backend string) string {
	return `
	handle /own {
		respond own
	}
	@odd {
		path /odd*
		query odd=*
	}
	handle @odd {
		load_balancer ` + backend + ` {
			name odd
		}
	}
	handle /none {
		load_balancer {
			name none
			backend ` + backend + ` {
				weight 0
			}
		}
	}
	handle {
		load_balancer ` + backend + `
	}
	handle_errors {
		respond failed
	}`
}

// keptConn is a connection on which one request after the other is sent.
type keptConn struct {
	t *testing.T
	net.Conn
	br *bufio.Reader
}

func (c *caddy) kept() *keptConn {
	c.t.Helper()
	conn, err := c.dialSite("http/1.1")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &keptConn{c.t, conn, bufio.NewReader(conn)}
}

func (k *keptConn) send(text string) {
	k.t.Helper()
	if _, err := io.WriteString(k, text); err != nil {
		k.t.Fatal(err)
	}
}

// expect reads an answer.
func (k *keptConn) expect(status int, body string) {
	k.t.Helper()
	res, err := http.ReadResponse(k.br, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status || string(got) != body {
		k.t.Fatalf("%d %q %v, %v, want %d %q", res.StatusCode, got, res.Header, err, status, body)
	}
}

func getOf(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" }

func postOf(target, body string) string {
	return "POST " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

// TestConnectionsComeBack: a connection of which a request was left to Caddy has its next one served by the express lane, whatever is sent
// behind it, and its client's leaving is noticed.
func TestConnectionsComeBack(t *testing.T) {
	t.Parallel()
	left := make(chan struct{}, 1)
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/odd/wait" {
			_, _ = w.Write([]byte("waits"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			left <- struct{}{}
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+string(body))
	}))
	t.Cleanup(b.Close)
	backend := strings.TrimPrefix(b.URL, "http://")
	config := strings.Replace(siteConfig(mixed(backend)), seamless, expressOn, 1)
	for name, config := range map[string]string{"plain": config, "TLS": overTLS(config)} {
		t.Run(name, func(t *testing.T) {
			c := startCaddyConfig(t, config)
			served := func(n uint64, work func()) {
				t.Helper()
				before, _ := c.laneServed()
				work()
				if after, left := c.laneServed(); after-before != n {
					t.Errorf("the express lane served %d requests, want %d; it left %v to Caddy", after-before, n, left)
				}
			}
			k := c.kept()
			served(7, func() { // the failed one among them
				for _, x := range []struct {
					request string
					status  int
					body    string
				}{
					{getOf("/"), 200, "GET "}, {getOf("/own"), 200, "own"}, {getOf("/"), 200, "GET "}, {postOf("/own", "abc"), 200, "own"},
					{"\r\n" + postOf("/", "abc"), 200, "POST abc"}, {postOf("/odd?odd=1", "abcd"), 200, "POST abcd"},
					{postOf("/", strings.Repeat("l", 100000)), 200, "POST " + strings.Repeat("l", 100000)},
					{postOf("/own", strings.Repeat("l", 100000)), 200, "own"}, {getOf("/"), 200, "GET "},
					{postOf("/none", "abc"), 503, "failed"}, {getOf("/"), 200, "GET "},
				} {
					k.send(x.request)
					k.expect(x.status, x.body)
				}
			})
			// At once, and cut where it hurts.
			all := getOf("/own") + getOf("/") + postOf("/own", "abc") + postOf("/", "abc") + getOf("/odd?odd=1") + getOf("/")
			for at := 1; at < len(all); at += 7 {
				served(3, func() {
					k.send(all[:at])
					k.send(all[at:])
					for _, body := range []string{"own", "GET ", "own", "POST abc", "GET ", "GET "} {
						k.expect(200, body)
					}
				})
			}
			// A connection that has mostly other requests stays with Caddy.
			served(0, func() {
				k := c.kept()
				for range 5 {
					k.send(getOf("/own"))
					k.expect(200, "own")
				}
				k.send(getOf("/"))
				k.expect(200, "GET ")
			})
			// The client leaves while Caddy serves its request.
			k.send(getOf("/odd/wait?odd=1"))
			if _, err := http.ReadResponse(k.br, nil); err != nil {
				t.Fatal(err)
			}
			k.Close()
			select {
			case <-left:
			case <-time.After(patience):
				t.Error("the backend does not hear that the client has left")
			}
			// An idle connection that has come back is closed with the server.
			k = c.kept()
			k.send(getOf("/own"))
			k.expect(200, "own")
			c.stop()
			if _, err := k.br.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v, want the end of the connection", err)
			}
		})
	}
}
