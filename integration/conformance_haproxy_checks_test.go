//go:build trust

package integration

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// soon is how long scenarios wait for what checks find.
const soon = 20 * time.Second

// until asks until this holds, or gives up.
func until(what string, holds func() (bool, error)) error {
	for deadline := time.Now().Add(soon); ; {
		done, err := holds()
		switch {
		case err != nil:
			return err
		case done:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("waited %v for %s", soon, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// avoids waits until requests go to this backend alone, of two in turn.
func (s *scene) avoids(c *caddy, only string) error {
	return until("all requests to go to "+only, func() (bool, error) {
		for range 6 {
			a, err := s.askPath(c, "/")
			if err != nil || a.body != only {
				return false, err
			}
		}
		return true, nil
	})
}

// uses waits until requests go to both.
func (s *scene) uses(c *caddy, both ...string) error {
	return until("requests to go to both", func() (bool, error) {
		seen := map[string]bool{}
		for range 12 {
			a, err := s.askPath(c, "/")
			if err != nil {
				return false, err
			}
			seen[a.body] = true
		}
		for _, name := range both {
			if !seen[name] {
				return false, nil
			}
		}
		return true, nil
	})
}

// checked starts two backends: "good" passes its checks, and the other one answers them like this. Requests go to them in turn.
func (s *scene) checked(ours, stock, check string) (c *caddy, good, other *farEnds) {
	start := func(name, check string) *farEnds {
		return s.backend(func(r farRequest) string {
			if strings.HasPrefix(r.target(), "/check") {
				return check
			}
			return textAnswer(name)
		})
	}
	good, other = start("good", textAnswer("all is well")), start("other", check)
	c = s.start("PROXY " + good.addr + " " + other.addr + " {\n lb_policy round_robin\n" + s.either("slow_start off\n"+ours, stock) + "\n }")
	return c, good, other
}

// checkScenarios are about health checks.
func checkScenarios() []scenario {
	const send = "checks/http-check-send.vtc"
	const expect = "checks/http-check-expect.vtc"
	const ours, stock = "health_check {\n http /check\n interval 100ms\n rise 1\n fall 1\n %s\n }", "health_uri /check\n health_interval 100ms\n %s"
	with := func(name, file, oursToo, stockToo, check string, passes bool) scenario {
		return scenario{name, file, func(s *scene) error {
			c, _, _ := s.checked(fmt.Sprintf(ours, oursToo), fmt.Sprintf(stock, stockToo), check)
			if passes {
				return s.uses(c, "good", "other")
			}
			return s.avoids(c, "good")
		}}
	}
	return []scenario{
		{"a check has the method, host, fields and body that were set", send, func(s *scene) error {
			_, good, _ := s.checked(fmt.Sprintf(ours, "method POST\n header Host www.haproxy.org\n header X-Test server\n body hello"),
				fmt.Sprintf(stock, "health_method POST\n health_headers {\n Host www.haproxy.org\n X-Test server\n }\n health_request_body hello"), textAnswer("all is well"))
			return until("a check", func() (bool, error) {
				for _, r := range good.got() {
					if r.target() != "/check" {
						continue
					}
					if !strings.HasPrefix(r.head, "POST ") || r.field("Host") != "www.haproxy.org" || r.field("X-Test") != "server" || r.body != "hello" {
						return false, fmt.Errorf("the check is %q with %q", r.head, r.body)
					}
					return true, nil
				}
				return false, nil
			})
		}},
		with("a status that is expected", expect, "", "", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true),
		with("a status that is not", "checks/4be_1srv_health_checks.vtc", "", "", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", false),
		with("a body that matches", expect, "expect_body ^all", "health_body ^all", textAnswer("all of it"), true),
		with("a body that does not", expect, "expect_body ^all", "health_body ^all", textAnswer("nothing"), false),
		with("no answer at all", "checks/4be_1srv_smtpchk_httpchk_layer47errors.vtc", "", "", "", false),
		with("what is no HTTP", "checks/4be_1srv_smtpchk_httpchk_layer47errors.vtc", "", "", "220 mail.example.com ready\r\n", false),
		{"a backend that fails its checks for a while comes back", "checks/4be_1srv_health_checks.vtc", func(s *scene) error {
			failing := make(chan struct{})
			start := func(name string, check func() string) *farEnds {
				return s.backend(func(r farRequest) string {
					if r.target() == "/check" {
						return check()
					}
					return textAnswer(name)
				})
			}
			good := start("good", func() string { return textAnswer("all is well") })
			other := start("other", func() string {
				select {
				case <-failing:
					return textAnswer("all is well")
				default:
					return "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
				}
			})
			c := s.start("PROXY " + good.addr + " " + other.addr + " {\n lb_policy round_robin\n" + s.either("slow_start off\n"+fmt.Sprintf(ours, ""), fmt.Sprintf(stock, "")) + "\n }")
			err := s.avoids(c, "good")
			close(failing)
			return errors.Join(err, s.uses(c, "good", "other"))
		}},
		{"checks go over TLS", "checks/tls_health_checks.vtc", func(s *scene) error {
			seen := make(chan string, 1)
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/check" && r.TLS != nil {
					select {
					case seen <- r.Method:
					default:
					}
				}
				fmt.Fprint(w, "ok")
			}))
			defer server.Close()
			c := s.start("PROXY " + server.URL + " {\n transport http {\n tls_trust_pool file " + certificateFile(s.t, server) + "\n }\n" + s.either(fmt.Sprintf(ours, ""), fmt.Sprintf(stock, "")) + "\n }")
			select {
			case <-seen:
			case <-time.After(soon):
				return errors.New("there is no check over TLS")
			}
			a, err := s.askPath(c, "/")
			return errors.Join(err, a.wants(http.StatusOK, "ok"))
		}},
		{"a check that only connects", "checks/tcp-check_multiple_ports.vtc", func(s *scene) error {
			// Nobody listens where the other is checked.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			l.Close()
			_, nobody, _ := net.SplitHostPort(l.Addr().String())
			good, other := s.backend(says(textAnswer("good"))), s.backend(says(textAnswer("other")))
			check := func(port string) string {
				return "health_check {\n tcp\n interval 100ms\n rise 1\n fall 1\n" + port + "\n }\n"
			}
			c := s.start("PROXY " + good.addr + s.either(" {\n"+check("")+"}", ""))
			if a, err := s.askPath(c, "/"); err != nil || a.body != "good" {
				return fmt.Errorf("status %d with a check that passes, %v", a.status, fmt.Sprint(err))
			}
			c = s.start("PROXY " + other.addr + " {\n" + s.either("hold off\npanic_threshold 0%\n"+check("port "+nobody), "health_uri /\nhealth_interval 100ms\nhealth_port "+nobody) + "\n}\n")
			return until("the check to be seen as failed", func() (bool, error) {
				if s.directive != "load_balancer" {
					a, err := s.askPath(c, "/")
					return a.status == http.StatusServiceUnavailable, err
				}
				return c.pool().Backends[0].Health == "down", nil
			})
		}},
		{"a page for whoever asks whether there is a backend", "checks/http-monitor-uri.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			if s.directive != "load_balancer" {
				return errors.New("there is no such page")
			}
			c := s.start("handle /health {\n load_balancer_ready\n}\nhandle {\n PROXY " + f.addr + "\n}")
			for path, want := range map[string]int{"/health": http.StatusOK, "http://www.haproxy.org/health": http.StatusOK} {
				if a, err := s.askPath(c, path); err != nil || a.status != want || len(f.got()) > 0 {
					return fmt.Errorf("%s: status %d, %v; %d requests", path, a.status, fmt.Sprint(err), len(f.got()))
				}
			}
			if a, err := s.askPath(c, "/ready"); err != nil || a.body != "ok" {
				return fmt.Errorf("another path: status %d, %v", a.status, fmt.Sprint(err))
			}
			return nil
		}},
	}
}
