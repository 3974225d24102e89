package integration

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestBytesAreCounted: the bytes of bodies are counted for the backend and its pool, in API, metrics and command line: small ones and large
// ones, of known and unknown length, and those of a connection that was upgraded. That holds on the express lane and beside it.
func TestBytesAreCounted(t *testing.T) {
	t.Parallel()
	const small, large, echoed = 100, 3 << 20, 50_000
	for name, lane := range map[string]string{"express": expressOn, "handlers": expressOff} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			body := bytes.Repeat([]byte("x"), large)
			echo := switchTo(func(conn *net.TCPConn) { _, _ = io.CopyN(conn, conn, echoed) })
			b.handle(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				switch r.URL.Path {
				case "/large":
					w.Header().Set("Content-Length", "3145728")
					_, _ = w.Write(body)
				case "/chunks":
					for range 3 {
						_, _ = w.Write(body[:small])
						_ = http.NewResponseController(w).Flush()
					}
				case "/tunnel":
					echo(w, r)
				case "/sink":
				default:
					_, _ = w.Write(body[:small])
				}
			})
			c := startCaddyConfig(t, strings.Replace(siteConfig("load_balancer "+b.addr+" {\n name api\n}"), seamless, lane, 1))
			var p struct {
				BytesIn  int `json:"bytes_in"`
				BytesOut int `json:"bytes_out"`
				Backends []struct {
					BytesIn  int `json:"bytes_in"`
					BytesOut int `json:"bytes_out"`
				}
			}
			in, out := 0, 0
			for _, step := range []struct {
				name    string
				send    func()
				in, out int
			}{
				{"nothing", func() { c.get("/sink") }, 0, 0},
				{"a short answer", func() { c.get("/") }, 0, small},
				{"a long answer", func() { c.get("/large") }, 0, large},
				{"chunks", func() { c.get("/chunks") }, 0, 3 * small},
				{"no body", func() { c.ask(c.request("HEAD", nil)) }, 0, 0},
				{"a short body", func() { c.ask(c.request("POST", bytes.NewReader(body[:small]))) }, small, small},
				{"a long body", func() { c.ask(c.request("POST", bytes.NewReader(body))) }, large, small},
				{"a body of unknown length", func() { c.ask(c.request("POST", io.MultiReader(bytes.NewReader(body)))) }, large, small},
				{"an upgraded connection", func() {
					conn, from := openTunnel(t, c, "/tunnel")
					_, _ = conn.Write(body[:echoed])
					if _, err := io.CopyN(io.Discard, from, echoed); err != nil {
						t.Error(err)
					}
				}, echoed, echoed},
			} {
				step.send()
				in, out = in+step.in, out+step.out
				waitFor(t, "the bytes of "+step.name, func() bool {
					if c.api("GET", "/load_balancer/pools/api", &p) != http.StatusOK {
						return false
					}
					return p.BytesIn == in && p.BytesOut == out && p.Backends[0].BytesIn == in && p.Backends[0].BytesOut == out
				})
			}
			for metric, want := range map[string]int{"bytes_in_total": in, "bytes_out_total": out} {
				if n := c.metric("caddy_load_balancer_"+metric, `backend="`+b.addr+`",pool="api"`); n != float64(want) {
					t.Errorf("%s is %v, want %d", metric, n, want)
				}
			}
			if shown, _, code := c.lb("pools", "--json"); code != 0 || !strings.Contains(shown, `"bytes_out":`) {
				t.Errorf("lb pools ended with %d:\n%s", code, shown)
			}
		})
	}
}
