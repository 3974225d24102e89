package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// Backends join a pool under load, and are cold: their first answers are slow.

const (
	joinWarm = 3 // backends from the start; the others join

	coldFor   = time.Second // from the first request on
	coldMore  = 200 * time.Millisecond
	coldSteps = 20

	joinBefore = time.Second // the measured time begins this long before they join,
	joinAfter  = 3 * time.Second
	joinOver   = 50 * time.Millisecond // only cold backends take longer
)

var joinColumns = []column{
	tail99, tail999, longerThan("above 50 ms", joinOver), notServed,
	{"their share in the last second", func(m *measured) string {
		last := m.Only(func(r openloop.Request) bool { return r.Due >= m.duration-time.Second })
		return percent(last.Backends[m.backends[joinWarm]]+last.Backends[m.backends[joinWarm+1]], last.Sent)
	}},
}

// joiningKinds returns the policies that are compared, each with the way in which its proxy adds backends.
func joiningKinds(dir string, o options) ([]kind, error) {
	var kinds []kind
	for _, c := range []struct {
		name, directive string
		lines           []string
		join            func(admin string) joiner
	}{
		{"`peak_ewma`", "load_balancer", []string{"name web", "lb_policy peak_ewma"}, joinByAPI},
		{"`least_conn`", "load_balancer", []string{"name web", "lb_policy least_conn"}, joinByAPI},
		{"`round_robin`", "load_balancer", []string{"name web", "lb_policy round_robin"}, joinByAPI},
		{"Caddy `least_conn`", "reverse_proxy", []string{"lb_policy least_conn"}, joinByReload},
	} {
		admin, err := freeAddress()
		if err != nil {
			return nil, err
		}
		// Each stores its added backends separately.
		global := "admin " + admin + "\n\tstorage file_system " + filepath.Join(dir, "storage"+admin)
		k := caddyWithAdmin(c.name, o, global, c.directive, c.lines...)
		k.join = c.join(admin)
		kinds = append(kinds, k)
	}
	for i, h := range []struct{ name, balance, server string }{
		{"HAProxy `leastconn`", "leastconn", ""},
		{"HAProxy `leastconn`, `slowstart 10s`", "leastconn", "slowstart 10s"},
		{"HAProxy `random(2)`, `slowstart 10s`", "random(2)", "slowstart 10s"},
	} {
		socket := filepath.Join(dir, fmt.Sprintf("haproxy%d.sock", i))
		k := haproxyWith(h.name, haproxyLines{global: " stats socket " + socket + " level admin\n"}, h.balance)
		k.join = joinBySocket(socket, h.server)
		kinds = append(kinds, k)
	}
	for _, n := range []struct{ name, method string }{
		{"nginx `least_conn`", "zone b 64k; least_conn;"},
		{"nginx `random two`", "zone b 64k; random two least_conn;"},
	} {
		k := nginxKind(n.name, dir, n.method)
		k.join = joinBySignal
		kinds = append(kinds, k)
	}
	return kinds, nil
}

// joinByAPI uses Ballast's admin API.
func joinByAPI(admin string) joiner {
	return func(ctx context.Context, _ *contender, _, added []string) error {
		for _, b := range added {
			if err := call(ctx, http.MethodPost, "http://"+admin+"/load_balancer/pools/web/backends", "application/json", `{"address": "`+b+`"}`); err != nil {
				return err
			}
		}
		return nil
	}
}

// joinByReload loads a new config into Caddy.
func joinByReload(admin string) joiner {
	return func(ctx context.Context, c *contender, now, _ []string) error {
		return call(ctx, http.MethodPost, "http://"+admin+"/load", "text/caddyfile", c.configuration(now))
	}
}

// joinBySocket adds servers with these parameters by HAProxy's runtime API.
func joinBySocket(socket, parameters string) joiner {
	return func(ctx context.Context, _ *contender, _, added []string) error {
		for i, b := range added {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err != nil {
				return err
			}
			fmt.Fprintf(conn, "add server b/j%d %s %s; enable server b/j%d\n", i, b, parameters, i)
			answer, err := io.ReadAll(conn)
			conn.Close()
			if err != nil {
				return fmt.Errorf("adding server %s: %w", b, err)
			}
			if !strings.Contains(string(answer), "New server registered") {
				return fmt.Errorf("adding server %s: %q", b, answer)
			}
		}
		return nil
	}
}

// joinBySignal makes nginx read a new config.
func joinBySignal(_ context.Context, c *contender, now, _ []string) error {
	if err := c.configure(now); err != nil {
		return err
	}
	process, err := os.FindProcess(c.pid)
	if err != nil {
		return err
	}
	return process.Signal(syscall.SIGHUP)
}

// compareJoining measures all contenders while cold backends join.
func compareJoining(ctx context.Context, dir string, o options) error {
	var started processes
	defer started.stop()
	backends, err := startUsual(ctx, &started, dir)
	if err != nil {
		return err
	}
	kinds, err := joiningKinds(dir, o)
	if err != nil {
		return err
	}
	contenders, err := startKinds(&started, dir, kinds, backends[:joinWarm])
	if err != nil {
		return err
	}
	printHead("two join three, cold", joinColumns)
	for i := range contenders {
		got, err := measureJoin(ctx, &contenders[i], backends)
		if err != nil {
			return fmt.Errorf("%s: %w", contenders[i].name, err)
		}
		printRow(contenders[i].name, joinColumns, got)
	}
	return nil
}

// measureJoin returns the results around the time when the last backends joined.
func measureJoin(ctx context.Context, c *contender, backends []string) (*measured, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	added := backends[joinWarm:]
	warmed := make(chan error, len(added))
	for _, b := range added {
		if err := call(ctx, http.MethodPost, "http://"+b+"/_reset", "", ""); err != nil {
			return nil, err
		}
		if err := cool(ctx, b, coldMore); err != nil {
			return nil, err
		}
		go func() { warmed <- warmUp(ctx, b) }()
	}
	joined := make(chan error, 1)
	go func() {
		select {
		case <-time.After(unevenWarmUp):
			joined <- c.join(ctx, c, backends, added)
		case <-ctx.Done():
			joined <- ctx.Err()
		}
	}()
	got, err := openloop.Run(ctx, openloop.Options{
		URL: "http://" + c.address + "/", Rate: usualRate, Duration: unevenWarmUp + joinAfter, Timeout: unevenTimeout,
	})
	if err != nil {
		return nil, err
	}
	if err := <-joined; err != nil {
		return nil, err
	}
	for range added {
		if err := <-warmed; err != nil {
			return nil, err
		}
	}
	return &measured{Summary: from(unevenWarmUp-joinBefore, got), backends: backends, duration: joinBefore + joinAfter}, nil
}

// warmUp makes a backend become fast from its first request on.
func warmUp(ctx context.Context, backend string) error {
	const poll = 5 * time.Millisecond
	deadline := time.Now().Add(unevenWarmUp + joinAfter)
	for {
		asked, err := wasAsked(ctx, backend)
		if err != nil {
			return err
		}
		if asked {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("backend %s has joined and gets no request", backend)
		}
		time.Sleep(poll)
	}
	for i := range coldSteps {
		time.Sleep(coldFor / coldSteps)
		if err := cool(ctx, backend, coldMore*time.Duration(coldSteps-1-i)/coldSteps); err != nil {
			return err
		}
	}
	return nil
}

// cool makes a backend slower by that time.
func cool(ctx context.Context, backend string, more time.Duration) error {
	return change(ctx, backend, fmt.Sprintf(`{"delay": "%v"}`, 10*time.Millisecond+more))
}

// wasAsked reports whether a backend has got a request.
func wasAsked(ctx context.Context, backend string) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+backend+"/_stats", nil)
	if err != nil {
		return false, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	var stats struct {
		Requests int `json:"requests"`
	}
	err = json.NewDecoder(res.Body).Decode(&stats)
	return stats.Requests > 0, err
}
