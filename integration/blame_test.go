package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestOneClientsFailures: requests of one client that fail wherever they are sent eject nobody from a pool that serves others. A
// backend that fails what the others serve is ejected, whoever asks.
func TestOneClientsFailures(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"503":               answers(http.StatusServiceUnavailable),
		"drops connections": writes(""),
		"breaks off":        writes("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backends, addresses := startBackends(t, 4)
			for _, b := range backends {
				b.handle(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/bad") {
						fault(w, r)
						return
					}
					healthy(w, r)
				})
			}
			c := startCaddy(t, "load_balancer "+addresses+" {\n name p\n lb_policy round_robin\n breaker {\n open 1m 1m\n }\n}")
			ask := func(from *http.Client, path string) {
				res, err := from.Get(c.url(path))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body) // it may break off
				res.Body.Close()
			}
			open := func() (n int) {
				for _, b := range c.pool().Backends {
					if b.Breaker != "closed" {
						n++
					}
				}
				return n
			}
			one, other := clientFrom(t, "127.0.0.1"), clientFrom(t, "127.0.0.2")
			for range 4 {
				ask(other, "/")
			}
			for i := range 40 {
				ask(one, fmt.Sprint("/bad/", i%3))
			}
			if n := open(); n != 0 {
				t.Errorf("one client's failures have opened %d breakers of a pool that serves others", n)
			}
			backends[0].handle(fault)
			waitFor(t, "the backend to be ejected that fails what others serve", func() bool {
				ask(one, "/")
				return open() == 1
			})
		})
	}
}
