package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSeamlessShutdown: what has connected is served when Caddy stops, and told to close its connection. Only connections that are made
// after that are refused.
func TestSeamlessShutdown(t *testing.T) {
	ways := append([]way{{"plain, answer in three parts", "plain", "h1", true, asDrips, 30}}, lightWays...)
	for name, stop := range map[string]func(*caddy) error{
		"SIGTERM": func(c *caddy) error { return c.cmd.Process.Signal(syscall.SIGTERM) },
		"stop": func(c *caddy) error {
			res, err := http.Post("http://"+c.admin+"/stop", "", nil)
			if err != nil {
				return err
			}
			return res.Body.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range longer(1) {
				p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
				if err := p.next(); err != nil { // the first config's sockets are not those of the last
					t.Fatal(err)
				}
				clients := shutDown(t, p, ways, stop)
				for _, c := range clients {
					for kind, n := range c.failed {
						// With GOAWAY the server says that it has done nothing about a stream: any client may repeat that request.
						if kind != "connect: refused" && kind != "no answer: GOAWAY" {
							t.Errorf("%s: %d of %d: %s; %q", c.name, n, c.requests, kind, c.samples)
						}
					}
					if c.kept && c.protocol == "h1" && c.told.Load() == 0 {
						t.Errorf("%s: no answer told the client to close its connection", c.name)
					}
				}
			}
		})
	}
}

// shutDown stops Caddy under load, and wants it to exit well and in time.
func shutDown(t *testing.T, p *reloaded, ways []way, stop func(*caddy) error) []*strictClient {
	t.Helper()
	over := make(chan struct{})
	var wg sync.WaitGroup
	clients := make([]*strictClient, len(ways))
	for i, w := range ways {
		clients[i] = p.client(w)
		defer clients[i].close()
		wg.Go(func() { clients[i].run(over) })
	}
	for _, c := range clients {
		waitFor(t, "answers: "+c.name, func() bool { n, _, _ := c.result(); return n > c.size })
	}
	began := time.Now()
	if err := stop(p.caddy); err != nil {
		t.Error(err)
	}
	<-p.caddy.ended
	if took, code := time.Since(began), p.caddy.cmd.ProcessState.ExitCode(); code != 0 || took > 11*time.Second {
		t.Errorf("exit code %d after %v, want 0 within the grace period of 10 s", code, took)
	}
	close(over)
	wg.Wait()
	return clients
}

// TestSeamlessPassedSocket: what waits at a socket that the process was given is served by the next one.
func TestSeamlessPassedSocket(t *testing.T) {
	backends := lossBackends(t)
	plain := new(net.ListenConfig)
	plain.SetMultipathTCP(false) // as systemd's are
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	site := l.Addr().String()
	l.Close() // file is another descriptor of the same socket
	config := func(n int64) string {
		return fmt.Sprintf("{\nadmin ADMIN_ADDRESS\npersist_config off\nauto_https off\ngrace_period 10s\nservers {\n%s\n}\n}\nhttp:// {\nbind fd/3\nheader X-Config %d\nload_balancer %s\n}\n",
			seamless, n, strings.Fields(fillBackends("B0 B1 B2", backends))[n%3])
	}
	c := startCaddyAt(t, site, config(0), file)
	p := &reloaded{name: "seamless", sites: map[string]string{"plain": site}, caddy: c}
	p.reload = func(n int64) error { return c.reload(config(n)) }
	rows, samples := underLoad(t, p, lightWays[:3], func() {
		for range longer(2) {
			for range 2 {
				if err := p.next(); err != nil {
					t.Error(err)
				}
			}
			began := time.Now()
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			<-c.ended
			if code := c.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			// Something waits meanwhile.
			takes(context.Background(), 50*time.Millisecond)
			c.start(config(p.begun.Load()))
			t.Logf("restarted within %v", time.Since(began).Round(time.Millisecond))
		}
	})
	judgeLosses(t, rows, samples)
}
