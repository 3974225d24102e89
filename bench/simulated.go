package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
	"github.com/ballastlb/ballast/bench/openloop"
	"github.com/ballastlb/ballast/lbmodule/simulate"
)

// simulatedPolicies are the policies whose simulation is compared with a measurement.
var simulatedPolicies = []string{"peak_ewma", "least_conn", "round_robin"}

// calibration is how long the overhead of requests is measured, before and after a scenario.
const calibration = 5 * time.Second

// compareSimulated measures our policies in the scenario, simulates the same, and prints both. The time that a request takes in addition to
// the backend's, on this machine at this moment, is measured with identical backends at the same rate, and passed to the simulation.
func (s *unevenScenario) compareSimulated(ctx context.Context, dir string, o options) error {
	program, err := buildBackend(dir)
	if err != nil {
		return err
	}
	var kinds []kind
	for _, policy := range simulatedPolicies {
		k := caddyKind("`"+policy+"`", o, "load_balancer", append([]string{"lb_policy " + policy}, s.options...)...)
		k.weights = s.weights
		kinds = append(kinds, k)
	}
	fmt.Printf("\n| %s | p50 | simulated | p99 | simulated | of measured | share of the first | simulated |\n|---|---|---|---|---|---|---|---|\n", s.title)
	for some := range slices.Chunk(kinds, max(s.together, 1)) {
		alike := s.alike()
		before, err := alike.measure(ctx, dir, program, some, calibration)
		if err != nil {
			return err
		}
		got, err := s.measure(ctx, dir, program, some, o.duration)
		if err != nil {
			return err
		}
		after, err := alike.measure(ctx, dir, program, some, calibration)
		if err != nil {
			return err
		}
		for i, k := range some {
			overhead := append(alike.overhead(before[i]), alike.overhead(after[i])...)
			virtual, err := s.simulate(ctx, k, got[i].backends, got[i].duration, overhead)
			if err != nil {
				return fmt.Errorf("simulating %s: %w", k.name, err)
			}
			printSimulated(k.name, got[i], virtual)
		}
	}
	return nil
}

func printSimulated(name string, got, virtual *measured) {
	ratio := virtual.Quantile(0.99).Seconds() / got.Quantile(0.99).Seconds()
	fmt.Printf("| %s | %s | %s | %s | %s | %.2f | %s | %s |\n", name, median50.of(got), median50.of(virtual), tail99.of(got), tail99.of(virtual), ratio,
		itsShare.of(got), itsShare.of(virtual))
}

// alike returns the scenario with healthy backends only: all take the same time as the last one.
func (s *unevenScenario) alike() *unevenScenario {
	same := *s
	same.events, same.duration = nil, calibration
	same.backends = alike(len(s.backends), fmt.Sprintf(`{"delay": "%s"}`, s.usualDelay()))
	return &same
}

// usualDelay returns the delay of the last backend, which is healthy.
func (s *unevenScenario) usualDelay() time.Duration {
	var settings struct {
		Delay caddy.Duration `json:"delay"`
	}
	_ = json.Unmarshal([]byte(s.backends[len(s.backends)-1]), &settings) // a test checks that backends accept the settings
	return time.Duration(settings.Delay)
}

// overhead returns the time that each request took in addition to the backend's.
func (s *unevenScenario) overhead(got *measured) (all []caddy.Duration) {
	for _, r := range got.Requests {
		all = append(all, caddy.Duration(max(r.Latency-s.usualDelay(), 0)))
	}
	return all
}

// simulate runs the scenario in virtual time, with the config that was measured.
func (s *unevenScenario) simulate(ctx context.Context, k kind, backends []string, duration time.Duration, overhead []caddy.Duration) (*measured, error) {
	text, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(k.config(setting{address: "127.0.0.1:80", upstreams: k.upstreams(backends)})), nil)
	if err != nil {
		return nil, err
	}
	pools, err := simulate.FindPools(text)
	if err != nil {
		return nil, err
	}
	scenario := simulate.Scenario{
		Duration: caddy.Duration(duration), WarmUp: caddy.Duration(unevenWarmUp), ClientTimeout: caddy.Duration(unevenPatience), Clients: 1,
		Arrivals: simulate.Arrivals{Rate: float64(s.rate), Process: "constant"}, Network: simulate.Times{Samples: overhead},
	}
	for i, settings := range s.backends {
		scenario.Backends = append(scenario.Backends, simulate.Change{Backend: backends[i], Behavior: json.RawMessage(settings)})
	}
	for _, e := range s.events {
		change := simulate.Change{Backend: backends[0], Behavior: json.RawMessage(e.settings)}
		switch {
		case e.all:
			change.Backend = ""
		case e.signal == syscall.SIGSTOP:
			change.Behavior = json.RawMessage(`{"state": "stopped"}`)
		case e.signal == syscall.SIGCONT:
			change.Behavior = json.RawMessage(`{"state": "up"}`)
		}
		scenario.Events = append(scenario.Events, simulate.Event{At: caddy.Duration(e.at), Change: change})
	}
	r, err := simulate.Run(ctx, pools[0], scenario)
	if err != nil {
		return nil, err
	}
	return &measured{Summary: summaryOf(r), backends: backends, weights: s.weights, duration: duration}, nil
}

// summaryOf converts a result to the form of a measurement.
func summaryOf(r *simulate.Result) *openloop.Summary {
	all := &openloop.Summary{}
	for i, q := range r.All {
		one := openloop.Request{N: i, Due: q.Due, Latency: q.Took}
		if q.Backend >= 0 {
			one.Status, one.Backend = int(q.Status), r.Backends[q.Backend].Name
		}
		all.Requests = append(all.Requests, one)
	}
	slices.SortStableFunc(all.Requests, func(a, b openloop.Request) int { return cmp.Compare(a.Latency, b.Latency) })
	return all.Only(func(openloop.Request) bool { return true })
}
