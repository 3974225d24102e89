package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// unevenScenario is a set of backends, a load, and events during the load.
type unevenScenario struct {
	name, title string
	backends    []string      // the settings of each, see examples/backend; if one differs from the others, it is the first
	weights     []int         // of the backends; nil for 1 each
	options     []string      // of load_balancer, besides its policy
	rate        int           // requests per second, open loop
	duration    time.Duration // of the measured time, which begins unevenWarmUp after the load; 0 for that of -duration
	together    int           // contenders that are measured at the same time; 0 for one after another
	events      []event
	columns     []column
}

// event is an event for the backends of a contender.
type event struct {
	at time.Duration // from the start of the measured time
	happening
}

// happening is a change of settings, or a signal.
type happening struct {
	settings string // the new settings; empty for a signal
	all      bool   // for all backends; otherwise for the first
	signal   os.Signal
}

// site is a running contender with backends of its own.
type site struct {
	contender
	started  processes
	backends []string
}

const (
	unevenWarmUp  = 5 * time.Second
	unevenTimeout = 5 * time.Second // of a request if no backend is stopped; also the latency that counts for a request that is not served

	// Requests held by a stopped backend must neither time out before it continues nor keep others from being sent.
	unevenPatience    = 15 * time.Second
	unevenConnections = 4000
)

// kinds returns the policies that are compared.
func (s *unevenScenario) kinds(dir string, o options) []kind {
	ours := func(policy string) kind {
		return caddyKind("`"+policy+"`", o, "load_balancer", append([]string{"lb_policy " + policy}, s.options...)...)
	}
	all := []kind{
		ours("peak_ewma"),
		ours("least_conn"),
		ours("p2c"),
		ours("round_robin"),
		haproxyKind("HAProxy `leastconn`", "leastconn"),
		haproxyKind("HAProxy `random(2)`", "random(2)"),
		nginxKind("nginx `least_conn`", dir, "zone b 64k; least_conn;"),
		nginxKind("nginx `random two`", dir, "zone b 64k; random two least_conn;"),
	}
	for i := range all {
		all[i].weights = s.weights
	}
	// Caddy itself supports weights in one policy only.
	caddy := caddyKind("Caddy `least_conn`", o, "reverse_proxy", "lb_policy least_conn")
	if s.weights != nil {
		caddy = caddyKind("Caddy `weighted_round_robin`", o, "reverse_proxy", "lb_policy weighted_round_robin "+strings.Trim(fmt.Sprint(s.weights), "[]"))
	}
	return slices.Insert(all, 4, caddy)
}

// compare measures all contenders and prints the results. Each has backends of its own, so that contenders do not affect each other.
func (s *unevenScenario) compare(ctx context.Context, dir string, o options) error {
	program, err := buildBackend(dir)
	if err != nil {
		return err
	}
	printHead(s.title, s.columns)
	for some := range slices.Chunk(installed(s.kinds(dir, o)), max(s.together, 1)) {
		got, err := s.measure(ctx, dir, program, some, o.duration)
		if err != nil {
			return err
		}
		for i, k := range some {
			printRow(k.name, s.columns, got[i])
		}
	}
	return nil
}

// measure measures some contenders at the same time. All are started before the load on the first begins.
func (s *unevenScenario) measure(ctx context.Context, dir, program string, some []kind, duration time.Duration) ([]*measured, error) {
	sites := make([]site, len(some))
	for i, k := range some {
		site := &sites[i]
		defer site.started.stop()
		var err error
		if site.backends, err = startUnevenBackends(ctx, &site.started, program, s.backends); err != nil {
			return nil, err
		}
		if site.contender, err = startKind(&site.started, dir, k, site.backends); err != nil {
			return nil, err
		}
	}
	if s.duration > 0 {
		duration = s.duration
	}
	got, failed := make([]*measured, len(some)), make([]error, len(some))
	var all sync.WaitGroup
	for i := range sites {
		all.Go(func() { got[i], failed[i] = s.drive(ctx, &sites[i], duration) })
	}
	all.Wait()
	return got, errors.Join(failed...)
}

// drive puts the load on one contender and makes the events happen.
func (s *unevenScenario) drive(ctx context.Context, site *site, duration time.Duration) (*measured, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	happened := make(chan error, 1)
	start := time.Now()
	go func() {
		err := site.undergo(ctx, s.events, start.Add(unevenWarmUp))
		if err != nil {
			cancel() // this ends the load as well
		}
		happened <- err
	}()
	got, err := openloop.Run(ctx, openloop.Options{
		URL: "http://" + site.address + "/", Rate: s.rate, Duration: unevenWarmUp + duration,
		Timeout: unevenPatience, Connections: unevenConnections,
	})
	if err != nil {
		return nil, err
	}
	if err := <-happened; err != nil {
		return nil, fmt.Errorf("%s: %w", site.name, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &measured{Summary: from(unevenWarmUp, got), backends: site.backends, weights: s.weights, duration: duration}, nil
}

// undergo makes the events happen, in order.
func (s *site) undergo(ctx context.Context, events []event, start time.Time) error {
	for _, e := range events {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(start.Add(e.at))):
		}
		if err := s.undergoOne(ctx, e.happening); err != nil {
			return err
		}
	}
	return nil
}

// undergoOne makes one event happen.
func (s *site) undergoOne(ctx context.Context, h happening) error {
	if h.settings == "" {
		return s.started.signal(s.backends[0], h.signal)
	}
	some := s.backends[:1]
	if h.all {
		some = s.backends
	}
	for _, b := range some {
		if err := change(ctx, b, h.settings); err != nil {
			return err
		}
	}
	return nil
}

// changeFirst changes the settings of the first backend, changeAll those of each.
func changeFirst(settings string) happening { return happening{settings: settings} }

func changeAll(settings string) happening { return happening{settings: settings, all: true} }

// signalFirst sends a signal to the first backend.
func signalFirst(signal os.Signal) happening { return happening{signal: signal} }

// buildBackend builds the backend, whose behaviour can be set.
func buildBackend(dir string) (program string, err error) {
	program = filepath.Join(dir, "backend")
	if out, err := exec.Command("go", "build", "-o", program, "./examples/backend").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the backend: %w\n%s", err, out)
	}
	return program, nil
}

// startUnevenBackends starts a backend with each of these settings.
func startUnevenBackends(ctx context.Context, started *processes, program string, settings []string) (backends []string, err error) {
	for _, s := range settings {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		if _, err := started.start("backend", address, program, "-listen", address, "-name", address); err != nil {
			return nil, err
		}
		if err := change(ctx, address, s); err != nil {
			return nil, err
		}
		backends = append(backends, address)
	}
	return backends, nil
}

// startUsual starts five healthy backends.
func startUsual(ctx context.Context, started *processes, dir string) ([]string, error) {
	program, err := buildBackend(dir)
	if err != nil {
		return nil, err
	}
	return startUnevenBackends(ctx, started, program, alike(5, usual))
}

// printHead and printRow print a Markdown table.
func printHead(title string, columns []column) {
	fmt.Printf("\n| %s |", title)
	for _, c := range columns {
		fmt.Printf(" %s |", c.title)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(columns)))
}

func printRow(name string, columns []column, got *measured) {
	fmt.Printf("| %s |", name)
	for _, c := range columns {
		fmt.Printf(" %s |", c.of(got))
	}
	fmt.Println()
}

// change changes the settings of a backend.
func change(ctx context.Context, backend, settings string) error {
	return call(ctx, http.MethodPatch, "http://"+backend+"/_settings", "application/json", settings)
}

// call sends a request that must be answered with success.
func call(ctx context.Context, method, url, contentType, body string) error {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d", method, url, res.StatusCode)
	}
	return nil
}
