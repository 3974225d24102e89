package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestAccessLog: a line for each way that a request can go.
func TestAccessLog(t *testing.T) {
	good, slow, hangs, breaks, upgrades := startBackend(t), startBackend(t), startBackend(t), startBackend(t), startBackend(t)
	gone := freeAddress(t)
	busy := make(chan struct{})
	release := make(chan struct{})
	slow.handle(func(http.ResponseWriter, *http.Request) {
		busy <- struct{}{}
		<-release
	})
	reached := make(chan struct{})
	hangs.handle(func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	})
	breaks.handle(writes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning"))
	upgrades.handle(writes("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nbye"))
	c := startCaddy(t, onLog+`
		log_append shown {http.load_balancer.attempts}
		handle /retried {
			load_balancer {
				name retried
				backend `+gone+` {
					name gone
				}
				backend `+good.addr+` {
					name good
				}
				lb_policy first
			}
		}
		handle /queued {
			load_balancer {
				name queued
				backend `+slow.addr+` {
					max_requests 1
				}
				queue 10 30s
			}
		}
		handle /refused {
			load_balancer {
				backend `+good.addr+` {
					weight 0
				}
			}
		}
		handle /canceled {
			load_balancer `+hangs.addr+`
		}
		handle /broken {
			load_balancer `+breaks.addr+`
		}
		handle /upgraded {
			load_balancer `+upgrades.addr+`
		}`)
	one := func(path string) accessLine {
		t.Helper()
		return c.accessLog(path, 1)[0]
	}

	c.get("/retried")
	line := one("/retried")
	if a := line.LB.Attempts; line.Status != 200 || line.LB.Pool != "retried" || line.LB.Backend != "good" || line.LB.Policy != "lb_first" || len(a) != 2 ||
		a[0].Backend != "gone" || a[0].Status != 0 || !strings.Contains(a[0].Error, "refused") || a[1].Backend != "good" || a[1].Status != 200 || a[1].Error != "" || a[1].Ms <= 0 {
		t.Errorf("retried: %+v", line.LB)
	}
	if fmt.Sprint(line.Shown) != fmt.Sprintf("[map[backend:gone error:%s ms:%v status:0] map[backend:good ms:%v status:200]]",
		line.LB.Attempts[0].Error, line.LB.Attempts[0].Ms, line.LB.Attempts[1].Ms) {
		t.Errorf("log_append shows %v", line.Shown)
	}

	go c.send("/queued?first")
	<-busy
	go c.send("/queued?second")
	waitFor(t, "a request in the queue", func() bool { return total(c.scrape(), "caddy_load_balancer_queue_length") == 1 })
	inQueue := time.Now()
	waitFor(t, "it to have waited for a while", func() bool { return time.Since(inQueue) >= 20*time.Millisecond })
	release <- struct{}{}
	<-busy
	release <- struct{}{}
	if line := one("/queued?second"); line.Status != 200 || line.LB.QueueMs < 20 || len(line.LB.Attempts) != 1 {
		t.Errorf("queued: %+v", line.LB)
	}
	if line := one("/queued?first"); line.LB.QueueMs != 0 {
		t.Errorf("not queued: %+v", line.LB)
	}
	if n := total(c.scrape(), "caddy_load_balancer_queue_seconds_count", `pool="queued"`); n != 1 {
		t.Errorf("%d requests have waited, want 1", n)
	}

	c.get("/refused")
	if line := one("/refused"); line.Status != 503 || line.LB.Backend != "" || line.LB.Error != "no backend is usable" || line.LB.Attempts == nil || len(line.LB.Attempts) != 0 {
		t.Errorf("refused: %+v", line.LB)
	}

	conn, err := net.Dial("tcp", c.site)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /canceled HTTP/1.1\r\nHost: %s\r\n\r\n", c.site)
	<-reached
	conn.Close()
	if line := one("/canceled"); line.Status != 499 || len(line.LB.Attempts) != 1 || line.LB.Attempts[0].Error != "context canceled" {
		t.Errorf("canceled: %+v", line.LB)
	}

	if status, body := c.ask(c.requestTo("/broken")); status != 200 || !strings.HasPrefix(body, "broken") {
		t.Errorf("status %d, %q", status, body)
	}
	if line := one("/broken"); len(line.LB.Attempts) != 1 || line.LB.Attempts[0].Status != 200 || line.LB.Attempts[0].Error != "answer broke off" {
		t.Errorf("broken: %+v", line.LB)
	}

	if conn, err = net.Dial("tcp", c.site); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgraded HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n", c.site)
	if status, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(status, "101") {
		t.Fatalf("%q, %v; want 101", status, err)
	}
	if line := one("/upgraded"); line.Status != 101 || len(line.LB.Attempts) != 1 || line.LB.Attempts[0].Status != 101 {
		t.Errorf("upgraded: %+v", line.LB)
	}
}

// send asks for a path and forgets the answer.
func (c *caddy) send(path string) {
	if res, err := client.Get(c.url(path)); err == nil {
		res.Body.Close()
	}
}

func (c *caddy) requestTo(path string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequest(http.MethodGet, c.url(path), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// TestPlaceholders: they tell in error pages and headers what the log tells. Without a log it costs nobody anything.
func TestPlaceholders(t *testing.T) {
	b := startBackend(t)
	gone := freeAddress(t)
	c := startCaddy(t, `
		handle /well {
			load_balancer {
				name web
				backend `+b.addr+` {
					name good
				}
				header_down X-Backend {http.load_balancer.backend}
				header_down X-Policy {http.load_balancer.policy}
			}
		}
		handle /ill {
			load_balancer `+gone+` {
				name ill
				hold off
				retry {
					attempts 1
				}
			}
		}
		handle_errors {
			respond "pool={http.load_balancer.pool} retries={http.load_balancer.retries} queue={http.load_balancer.queue_ms} error={http.load_balancer.error} attempts={http.load_balancer.attempts}"
		}`)
	if _, header, _ := c.get("/well"); header.Get("X-Backend") != "good" || header.Get("X-Policy") != "lb_peak_ewma" {
		t.Errorf("headers %v", header)
	}
	status, _, body := c.get("/ill")
	if status != 502 || !strings.HasPrefix(body, "pool=ill retries=0 queue=0 error=dial tcp "+gone) || !strings.Contains(body, `attempts=[{"backend":"`+gone+`","status":0,"ms":`) {
		t.Errorf("%d %s", status, body)
	}
}

// TestRequestID: what Caddy has is enough to follow a request to its backend.
func TestRequestID(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, onLog+"load_balancer "+b.addr+" {\n header_up X-Request-Id {http.request.uuid}\n}")
	seen := make(chan string, 1)
	b.handle(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("X-Request-Id") })
	c.get("/id")
	if line, id := c.accessLog("/id", 1)[0], <-seen; id == "" || line.UUID != id {
		t.Errorf("the backend saw %q, the log tells %q", id, line.UUID)
	}
}
