//go:build trust

package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// wrongScenarios are about backends and clients that leave or fail, and about what must wait.
func wrongScenarios() []scenario {
	const abort = "http-messaging/http_abortonclose.vtc"
	const retries = "stream/set-retries.vtc"
	return []scenario{
		{"without a backend that can be reached the answer is 503", abort, func(s *scene) error {
			a, err := s.askPath(s.start("PROXY "+freeAddress(s.t)), "/c1")
			return errors.Join(err, wantStatus(a, http.StatusServiceUnavailable))
		}},
		{"a client that leaves while connecting is tried again is not answered 5xx", abort, func(s *scene) error {
			address := freeAddress(s.t)
			config := s.config("log {\n output stderr\n }\nPROXY "+freeAddress(s.t)+" {\n"+s.either("hold 1m", "lb_try_duration 1m")+"\n}", anyHost(s, address))
			c := startCaddyAt(s.t, address, strings.Replace(config, "{\n", "{\n metrics\n", 1))
			if err := s.leave(c, "/c2", nil); err != nil {
				return err
			}
			return loggedAs(c, "/c2", 499)
		}},
		{"a client that leaves while it waits for an answer takes its request along", abort, func(s *scene) error {
			f := s.backend(says(staysSilent))
			c := s.start("log {\n output stderr\n }\nPROXY " + f.addr)
			if err := s.leave(c, "/c3", func() bool { return len(f.got()) == 1 }); err != nil {
				return err
			}
			return errors.Join(loggedAs(c, "/c3", 499), until("the backend to be left", func() (bool, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				return f.gone == 1, nil
			}))
		}},
		{"a client that leaves the queue never reaches the backend, and others go on", abort, leavesQueue},
		{"a request waits while its backend is full", abort, func(s *scene) error {
			q, err := haveOneWait(s)
			if err != nil {
				return err
			}
			close(q.release)
			for _, n := range []*near{q.first, q.second} {
				a, err := n.read("GET")
				if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
					return err
				}
			}
			return nil
		}},
		{"a connection that is refused is tried at the next backend", retries, func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			c := s.start("PROXY " + freeAddress(s.t) + " " + f.addr + " {\n lb_policy first\n" + s.either("", "lb_retries 3") + "\n}")
			for _, sent := range []string{request("GET /a", "Connection: close"), request("POST /a", "Connection: close", "Content-Length: 4") + "sent"} {
				a, err := s.askOnce(c, sent)
				if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
					return err
				}
			}
			return nil
		}},
		{"as many attempts as were set, and no more", retries, func(s *scene) error {
			f := s.backend(says(""))
			c := s.start("PROXY " + f.addr + " {\n" + s.either("breaker off\n retry {\n attempts 4\n backoff 1ms 2ms\n }", "lb_retries 3\n lb_try_interval 1ms") + "\n}")
			a, err := s.askPath(c, "/")
			if err != nil {
				return err
			}
			if got := len(f.got()); got != 4 {
				return fmt.Errorf("%d attempts, status %d", got, a.status)
			}
			return wantStatus(a, http.StatusBadGateway)
		}},
		{"attempts may be none", retries, func(s *scene) error {
			f := s.backend(says(""))
			c := s.start("PROXY " + f.addr + " {\n" + s.either("retry off", "") + "\n}")
			a, err := s.askPath(c, "/")
			if got := len(f.got()); got != 1 {
				return fmt.Errorf("%d attempts", got)
			}
			return errors.Join(err, wantStatus(a, http.StatusBadGateway))
		}},
		{"a backend that closes its connection after each answer is no failure", retries, func(s *scene) error {
			f := s.backend(says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
			n := s.dial(s.start("PROXY " + f.addr))
			for range 6 {
				a, err := n.ask(request("GET /"))
				if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
					return err
				}
			}
			return nil
		}},
		{"only the statuses that were named are failures", "http-rules/http-err-fail.vtc", func(s *scene) error {
			f := s.backend(func(r farRequest) string {
				return "HTTP/1.1 " + strings.Trim(r.target(), "/") + " Some\r\nContent-Length: 0\r\n\r\n"
			})
			good := s.backend(says(textAnswer("good")))
			c := s.start("PROXY " + f.addr + " " + good.addr + " {\n lb_policy first\n fail_duration 1m\n max_fails 1\n unhealthy_status 555\n" + s.either("retry off", "") + "\n}")
			for _, status := range []int{220, 300, 400, 599, 555} {
				a, err := s.askPath(c, fmt.Sprint("/", status))
				if err := errors.Join(err, wantStatus(a, status)); err != nil {
					return err
				}
			}
			a, err := s.askPath(c, "/220")
			return errors.Join(err, a.wants(http.StatusOK, "good"))
		}},
		{"an error has the page that was set", "http-errorfiles/http_errors.vtc", func(s *scene) error {
			c := s.start("PROXY " + freeAddress(s.t) + "\nhandle_errors {\n respond \"a page of our own\"\n}")
			a, err := s.askPath(c, "/")
			if err == nil && a.body != "a page of our own" {
				err = fmt.Errorf("status %d with %q", a.status, a.body)
			}
			return err
		}},
		{"a backend's timeout is answered 504", "http-rules/set_timeout.vtc", func(s *scene) error {
			f := s.backend(says(staysSilent))
			c := s.start("PROXY " + f.addr + " {\n transport http {\n response_header_timeout 200ms\n }\n" + s.either("retry off", "") + "\n}")
			a, err := s.askPath(c, "/")
			return errors.Join(err, wantStatus(a, http.StatusGatewayTimeout))
		}},
		{"the fourth request of an address in a minute is refused", "stick-table/src_conn_rate.vtc", func(s *scene) error {
			if s.directive != "load_balancer" {
				return errors.New("there is no such limit")
			}
			f := s.backend(says(textAnswer("ok")))
			c := s.start("ip_rate_limit {\n rate 3/h\n burst 3\n}\nPROXY " + f.addr)
			for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
				a, err := s.askPath(c, "/")
				if err := errors.Join(err, wantStatus(a, want)); err != nil {
					return fmt.Errorf("request %d: %w", i, err)
				}
			}
			if got := len(f.got()); got != 3 {
				return fmt.Errorf("the backend got %d", got)
			}
			return nil
		}},
	}
}

// wantStatus is the error of another status.
func wantStatus(a nearAnswer, want int) error {
	if a.status != want {
		return fmt.Errorf("status %d, want %d", a.status, want)
	}
	return nil
}

// leave asks for a path, waits until that is so, and closes the connection. Without it, it waits until the request has been seen.
func (s *scene) leave(c *caddy, path string, until func() bool) error {
	n := s.dial(c)
	if _, err := io.WriteString(n.conn, request("GET "+path)); err != nil {
		return err
	}
	if until == nil {
		until = func() bool { return c.metrics(`caddy_http_requests_in_flight{.*()`)[""] > 0 || c.held() > 0 }
	}
	waitFor(s.t, "the request", until)
	return n.conn.Close()
}

// held is how many requests wait for a backend.
func (c *caddy) held() float64 {
	return c.metrics(`caddy_load_balancer_held_requests{()`)[""]
}

// loggedAs waits until the request for that path is in the log, with that status.
func loggedAs(c *caddy, path string, status int) error {
	return until("the log", func() (bool, error) {
		for line := range strings.Lines(c.log.String()) {
			if strings.Contains(line, `"uri":"`+path+`"`) && strings.Contains(line, `"logger":"http.log.access`) {
				if !strings.Contains(line, fmt.Sprintf(`"status":%d`, status)) {
					return false, fmt.Errorf("logged as %s", line[max(0, strings.Index(line, `"status"`)):])
				}
				return true, nil
			}
		}
		return false, nil
	})
}

// fullBackend is a backend that takes one request at a time, and holds what it has until it is released.
func fullBackend(s *scene) (c *caddy, f *farEnds, release chan struct{}) {
	release = make(chan struct{})
	f = s.backend(func(farRequest) string {
		<-release
		return textAnswer("ok")
	})
	site := "PROXY " + f.addr + " {\n unhealthy_request_count 1\n}"
	if s.directive == "load_balancer" {
		site = "PROXY {\n backend " + f.addr + " {\n max_requests 1\n }\n queue 10 30s\n}"
	}
	return s.start(site), f, release
}

// waitingPair are two requests: the backend has the first, and the second waits until that is over.
type waitingPair struct {
	caddy         *caddy
	backend       *farEnds
	first, second *near
	release       chan struct{} // when it is closed, the backend answers
}

// haveOneWait has a request wait for a backend that is full.
func haveOneWait(s *scene) (q waitingPair, err error) {
	q.caddy, q.backend, q.release = fullBackend(s)
	q.first, q.second = s.dial(q.caddy), s.dial(q.caddy)
	_, _ = io.WriteString(q.first.conn, request("GET /c3"))
	waitFor(s.t, "the first request", func() bool { return len(q.backend.got()) == 1 })
	_, _ = io.WriteString(q.second.conn, request("GET /c4"))
	if s.directive != "load_balancer" {
		a, err := q.second.read("GET")
		close(q.release)
		return q, fmt.Errorf("it does not wait: status %d, %v", a.status, fmt.Sprint(err))
	}
	waitFor(s.t, "the queue", func() bool { return q.caddy.pool().Queue == 1 })
	return q, nil
}

// leavesQueue has a client that leaves while it waits for a backend that is full.
func leavesQueue(s *scene) error {
	q, err := haveOneWait(s)
	if err != nil {
		return err
	}
	q.second.conn.Close()
	waitFor(s.t, "the queue to be left", func() bool { return q.caddy.pool().Queue == 0 })
	close(q.release)
	a, err := q.first.read("GET")
	if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
		return err
	}
	if a, err := s.askPath(q.caddy, "/last"); err != nil || a.body != "ok" {
		return fmt.Errorf("status %d, %v", a.status, fmt.Sprint(err))
	}
	for _, r := range q.backend.got() {
		if r.target() == "/c4" {
			return errors.New("the backend got the request of a client that had left")
		}
	}
	return nil
}
