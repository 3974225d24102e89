package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// firstClients is how many clients ask as soon as there is a listener.
const firstClients = 20

// askAtOnce has clients connect from the moment that the site's address is listened at, each on its own connection, and returns what they
// are answered: the status, or the error of a connection that was made. No connection is refused once one has been made.
func (c *caddy) askAtOnce(clients int) (answers []string, took time.Duration) {
	c.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	var listening atomic.Bool
	var start time.Time
	deadline := time.Now().Add(patience)
	for range clients {
		all.Go(func() {
			var conn net.Conn
			for {
				before := listening.Load()
				var err error
				if conn, err = net.Dial("tcp", c.site); err == nil {
					break
				}
				if before && errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) {
					mu.Lock()
					answers = append(answers, err.Error())
					mu.Unlock()
					return
				}
				time.Sleep(time.Millisecond) // until it is listened at
			}
			defer conn.Close()
			mu.Lock()
			if !listening.Swap(true) {
				start = time.Now()
			}
			mu.Unlock()
			_ = conn.SetDeadline(deadline)
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+c.site+"\r\nConnection: close\r\n\r\n")
			text, err := io.ReadAll(conn)
			answer := fmt.Sprint("broken: ", err)
			if head, body, found := strings.Cut(string(text), "\r\n\r\n"); found {
				answer = strings.Fields(head)[1] + " " + strings.TrimSpace(body)
			}
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer)
			took = max(took, time.Since(start))
		})
	}
	all.Wait()
	return answers, took
}

// firstCheck is how the check of a backend goes.
type firstCheck struct {
	after  time.Duration // it is answered after that time; 0 for never
	status int

	over atomic.Bool // it has been answered or will be no more
}

func (f *firstCheck) answer(w http.ResponseWriter, r *http.Request) {
	if f.after == 0 {
		time.AfterFunc(firstTimeout/2, func() { f.over.Store(true) }) // the timeout began before the request came
		<-r.Context().Done()
		return
	}
	select {
	case <-time.After(f.after):
	case <-r.Context().Done():
	}
	f.over.Store(true)
	w.WriteHeader(f.status)
}

// firstTimeout is the timeout of the checks in TestFirstRequests. By itself, no request waits that long for a check.
const firstTimeout = 3 * time.Second

// TestFirstRequests: with seamless, connections that are made as soon as Caddy listens wait until the first checks are done or have timed
// out. They are not refused, and are served by a backend that is up.
func TestFirstRequests(t *testing.T) {
	t.Parallel()
	const late = 1500 * time.Millisecond
	for name, checks := range map[string][]*firstCheck{
		"one late, one down": {{after: late, status: http.StatusOK}, {after: time.Millisecond, status: http.StatusServiceUnavailable}},
		"one up, one never":  {{after: time.Millisecond, status: http.StatusOK}, {}},
		"one up, one late":   {{after: time.Millisecond, status: http.StatusOK}, {after: late, status: http.StatusServiceUnavailable}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backends, addresses := startBackends(t, 2)
			var early atomic.Int64
			for i, b := range backends {
				b.handle(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/healthz" {
						checks[i].answer(w, r)
						return
					}
					if !checks[0].over.Load() || !checks[1].over.Load() {
						early.Add(1)
					}
					fmt.Fprint(w, "backend ", i)
				})
			}
			c := launchCaddy(t, stoppingConfig("", seamless, fmt.Sprintf(`load_balancer %s {
				name p
				health_check {
					http /healthz
					interval 20s
					timeout %v
				}
			}`, addresses, firstTimeout)))
			answers, took := c.askAtOnce(firstClients)
			t.Logf("all are answered %v after the first connection", took.Round(time.Millisecond))
			for _, answer := range answers {
				if answer != "200 backend 0" {
					t.Errorf("answer %q, want one of the backend that is up", answer)
				}
			}
			if len(answers) != firstClients {
				t.Errorf("%d answers, want %d", len(answers), firstClients)
			}
			if n := early.Load(); n != 0 {
				t.Errorf("%d requests came to a backend before the checks were over", n)
			}
		})
	}
}
