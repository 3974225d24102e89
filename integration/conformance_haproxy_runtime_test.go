//go:build trust

package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// errNoAPI is what becomes of a scenario about backends that are changed while they run.
var errNoAPI = errors.New("backends cannot be changed at run time")

// change sends a request about the backends of pool p, and wants that status.
func (s *scene) change(c *caddy, method, backend, body string, want int) error {
	if m := c.edit(method, backend, body); m.status != want {
		return fmt.Errorf("%s %s %s: status %d: %s", method, backend, body, m.status, m.body)
	}
	return nil
}

// inPool is a scenario with a pool p of three backends, which only ours can change.
func inPool(file, name string, run func(s *scene, c *caddy, backends []*farEnds) error) scenario {
	return scenario{name, file, func(s *scene) error {
		if s.directive != "load_balancer" {
			return errNoAPI
		}
		backends, addresses := s.named(3)
		return run(s, s.start("PROXY"+addresses+" {\n name p\n lb_policy round_robin\n slow_start off\n}"), backends)
	}}
}

// runtimeScenarios are about what is changed or asked of a balancer that runs.
func runtimeScenarios() []scenario {
	const add, remove, set = "server/cli_add_server.vtc", "server/cli_delete_server.vtc", "server/cli_add_check_server.vtc"
	return []scenario{
		inPool(add, "a backend that is added is used", func(s *scene, c *caddy, _ []*farEnds) error {
			f := s.backend(says(textAnswer("new")))
			err := s.change(c, "POST", "", `{"address": "`+f.addr+`"}`, http.StatusCreated)
			return errors.Join(err, s.uses(c, "s1", "s2", "s3", "new"))
		}),
		inPool(add, "one that is there cannot be added", func(s *scene, c *caddy, b []*farEnds) error {
			return s.change(c, "POST", "", `{"address": "`+b[0].addr+`"}`, http.StatusConflict)
		}),
		inPool(add, "one without an address cannot be added", func(s *scene, c *caddy, _ []*farEnds) error {
			return s.change(c, "POST", "", `{"weight": 2}`, http.StatusBadRequest)
		}),
		inPool(add, "to a pool that there is not none can be added", func(s *scene, c *caddy, b []*farEnds) error {
			if status, _ := c.askAdminWith("POST", "/load_balancer/pools/other/backends", "application/json", `{"address": "`+b[0].addr+`"}`); status != http.StatusNotFound {
				return fmt.Errorf("status %d", status)
			}
			return nil
		}),
		inPool(remove, "a backend that is removed is not used any more", func(s *scene, c *caddy, b []*farEnds) error {
			if err := s.change(c, "DELETE", b[0].addr, "", http.StatusNoContent); err != nil {
				if err := s.change(c, "DELETE", b[0].addr, "", http.StatusNotFound); err != nil {
					return err
				}
			}
			return s.never(c, b[0])
		}),
		inPool(remove, "one that there is not cannot be removed", func(s *scene, c *caddy, _ []*farEnds) error {
			return s.change(c, "DELETE", "127.0.0.1:1", "", http.StatusNotFound)
		}),
		inPool(set, "a backend in maintenance gets nothing, until it is ready", func(s *scene, c *caddy, b []*farEnds) error {
			if err := s.change(c, "PATCH", b[0].addr, `{"state": "maintenance"}`, http.StatusOK); err != nil {
				return err
			}
			err := s.never(c, b[0])
			return errors.Join(err, s.change(c, "PATCH", b[0].addr, `{"state": "ready"}`, http.StatusOK), s.uses(c, "s1", "s2", "s3"))
		}),
		inPool(set, "a backend that drains ends what it has, and gets nothing new", drains),
		inPool("checks/agent-check.vtc", "a weight is changed, and shares with it", func(s *scene, c *caddy, b []*farEnds) error {
			for i, weight := range []int{3, 1, 0} {
				if err := s.change(c, "PATCH", b[i].addr, fmt.Sprintf(`{"weight": %d}`, weight), http.StatusOK); err != nil {
					return err
				}
			}
			before := len(b[0].got())
			for range 40 {
				if _, err := s.askPath(c, "/"); err != nil {
					return err
				}
			}
			if first, second, third := len(b[0].got())-before, len(b[1].got()), len(b[2].got()); first != 30 || second != 10 || third != 0 {
				return fmt.Errorf("%d, %d and %d of 40", first, second, third)
			}
			return nil
		}),
		inPool("stats/clear_counters_server.vtc", "the counters of one backend are set to 0, and no others", func(s *scene, c *caddy, b []*farEnds) error {
			for range 6 {
				if _, err := s.askPath(c, "/"); err != nil {
					return err
				}
			}
			if status, text := c.askAdmin("POST", "/load_balancer/pools/p/backends/"+b[0].addr+"/reset"); status != http.StatusOK {
				return fmt.Errorf("status %d: %s", status, text)
			}
			counted := map[string]uint64{}
			for _, state := range c.pool().Backends {
				counted[state.Address] = state.Requests
			}
			if counted[b[0].addr] != 0 || counted[b[1].addr] != 2 || counted[b[2].addr] != 2 {
				return fmt.Errorf("counted are %v", counted)
			}
			return nil
		}),
		{"metrics say which backends are well", "contrib/prometheus.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			c := s.start("PROXY " + f.addr)
			if _, err := s.askPath(c, "/"); err != nil {
				return err
			}
			pattern := s.either(`caddy_load_balancer_backend_healthy{.*(`+f.addr+`)"`, `caddy_reverse_proxy_upstreams_healthy{.*(`+f.addr+`)"`)
			return until("the metric", func() (bool, error) { return c.metrics(pattern)[f.addr] == 1, nil })
		}},
		{"metrics count each backend's requests", "contrib/prometheus.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			c := s.start("PROXY " + f.addr)
			for range 3 {
				if _, err := s.askPath(c, "/"); err != nil {
					return err
				}
			}
			if s.directive != "load_balancer" {
				return errors.New("no metric is by backend")
			}
			return until("the metric", func() (bool, error) {
				return c.metrics(`caddy_load_balancer_attempts_total{backend="(` + f.addr + `)",outcome="success"`)[f.addr] == 3, nil
			})
		}},
		{"fifty requests around a reload are answered", "seamless-reload/abns_socket.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			address := freeAddress(s.t)
			config := s.config("header X-Config N\nPROXY "+f.addr, anyHost(s, address))
			c := startCaddyAt(s.t, address, config)
			n := s.dial(c)
			done := make(chan error, 1)
			go func() { done <- c.reload(strings.Replace(config, "X-Config N", "X-Config M", 1)) }()
			for i := 0; i < 50 || len(done) == 0; i++ {
				if i == 5000 {
					return errors.New("the reload does not end")
				}
				kept, err := n.ask(request("GET /"))
				if err := errors.Join(err, kept.wants(http.StatusOK, "ok")); err != nil {
					return fmt.Errorf("on the kept connection, request %d: %w", i, err)
				}
				a, err := s.askPath(c, "/")
				if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
					return fmt.Errorf("request %d: %w", i, err)
				}
			}
			if err := <-done; err != nil {
				return err
			}
			kept, err := n.ask(request("GET /"))
			return errors.Join(err, kept.wants(http.StatusOK, "ok"))
		}},
	}
}

// never asks some times, and wants the backend to be left out.
func (s *scene) never(c *caddy, f *farEnds) error {
	before := len(f.got())
	for range 9 {
		if a, err := s.askPath(c, "/"); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("status %d, %v", a.status, fmt.Sprint(err))
		}
	}
	if n := len(f.got()) - before; n > 0 {
		return fmt.Errorf("it got %d requests", n)
	}
	return nil
}

// drains drains a backend that has a request.
func drains(s *scene, c *caddy, b []*farEnds) error {
	release := make(chan struct{})
	f := s.backend(func(farRequest) string {
		<-release
		return textAnswer("slow")
	})
	if err := s.change(c, "POST", "", `{"address": "`+f.addr+`"}`, http.StatusCreated); err != nil {
		return err
	}
	for _, other := range b {
		if err := s.change(c, "PATCH", other.addr, `{"state": "maintenance"}`, http.StatusOK); err != nil {
			return err
		}
	}
	n := s.dial(c)
	if _, err := io.WriteString(n.conn, request("GET /")); err != nil {
		return err
	}
	waitFor(s.t, "the request", func() bool { return len(f.got()) == 1 })
	err := s.change(c, "PATCH", f.addr, `{"state": "drain"}`, http.StatusOK)
	for _, other := range b {
		err = errors.Join(err, s.change(c, "PATCH", other.addr, `{"state": "ready"}`, http.StatusOK))
	}
	err = errors.Join(err, s.never(c, f))
	close(release)
	a, readErr := n.read("GET")
	return errors.Join(err, readErr, a.wants(http.StatusOK, "slow"))
}
