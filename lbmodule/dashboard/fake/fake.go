// Package fake provides simulated pools in every state, for tests of the dashboard and for looking at it in a browser.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/ballastlb/ballast/lbmodule/dashboard"
)

// object is a JSON object.
type object = map[string]any

// Source is a [dashboard.Source] of simulated pools. Their counters grow with time; their states change only by Edit and Change.
type Source struct {
	mu      sync.Mutex // guards the fields below
	random  *rand.Rand
	pools   []*pool
	started time.Time
	last    time.Time // of the last snapshot, when the counters grew
	cpu     float64
	limits  map[string]float64
	express map[string]float64
	events  []dashboard.Event
	asked   int // snapshots taken
}

// New returns a source with a few pools in every state, and with more healthy pools of the given number of backends each.
func New(more, backends int) *Source {
	now := time.Now()
	s := &Source{random: rand.New(rand.NewPCG(1, 2)), started: now, last: now, limits: map[string]float64{"allowed": 0, "refused": 0},
		express: map[string]float64{"served": 1e6, "te": 310, "header": 4200, "upgrade": 12}}
	s.pools = somePools(now)
	for i := range more {
		p := &pool{name: fmt.Sprintf("shard-%02d", i+1), policy: "lb_p2c", budget: 100}
		for k := range backends {
			p.backends = append(p.backends, newBackend(fmt.Sprintf("10.%d.%d.%d:8080", 20+i, k/200, 1+k%200), 40+float64(k), now))
		}
		s.pools = append(s.pools, p)
	}
	s.tell("backend_down", "web", "web-3", "active check", "dial tcp 10.0.1.3:8080: connect: connection refused")
	s.tell("breaker_opened", "api", "api-2", "5 failures in a row", "")
	s.tell("panic_began", "search", "", "", "")
	return s
}

// Asked returns how many snapshots were taken.
func (s *Source) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Edit changes fields of a backend. If fields is nil, it removes the pool.
func (s *Source) Edit(poolName, backendName string, fields object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.pools {
		if p.name != poolName {
			continue
		}
		if fields == nil {
			s.pools = append(s.pools[:i:i], s.pools[i+1:]...)
			return
		}
		if b := p.find(backendName); b != nil {
			for key, value := range fields {
				b.shown[key] = value
			}
		}
	}
}

// Tell adds an event.
func (s *Source) Tell(name, poolName, backendName, reason, err string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(name, poolName, backendName, reason, err)
}

func (s *Source) tell(name, poolName, backendName, reason, err string) {
	data, _ := json.Marshal(object{"time": time.Now(), "pool": poolName, "backend": backendName, "reason": reason, "error": err})
	s.events = append(s.events, dashboard.Event{ID: uint64(len(s.events) + 1), Name: name, Data: data})
}

// Events implements [dashboard.Source].
func (s *Source) Events(after uint64) []dashboard.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after > uint64(len(s.events)) {
		return nil
	}
	return s.events[after:len(s.events):len(s.events)]
}

// Snapshot implements [dashboard.Source].
func (s *Source) Snapshot() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	now := time.Now()
	seconds := now.Sub(s.last).Seconds()
	s.last = now
	pools, diffs := []object{}, object{}
	for _, p := range s.pools {
		p.grow(s.random, seconds, now.Sub(s.started).Seconds())
		pools = append(pools, p.show())
		if changes := p.changes(); len(changes) > 0 {
			diffs[p.name] = object{"pool": p.name, "changes": changes, "caddyfile": p.caddyfile()}
		}
	}
	s.cpu += seconds * (0.4 + 0.1*s.random.Float64())
	s.limits["allowed"] += math.Round(1400 * seconds)
	s.limits["refused"] += math.Round(30 * seconds * s.random.Float64())
	s.express["served"] += math.Round(2900 * seconds)
	s.express["header"] += math.Round(12 * seconds * s.random.Float64())
	return json.Marshal(object{
		"time": now, "node": "edge-1", "pools": pools, "diffs": diffs,
		"rate_limits": []object{
			{"zone": "api", "rate": "100/s", "burst": 200, "dry_run": false, "keys": 4212, "max_keys": 262144, "evictions": 0,
				"decisions": s.limits, "store": object{"available": true, "errors": 0}},
			{"zone": "login", "rate": "5/m", "burst": 5, "dry_run": true, "keys": 17, "max_keys": 262144, "evictions": 0,
				"decisions": object{"allowed": 310, "refused": 0, "dry_run": 4}},
		},
		"express": []object{
			{"server": "srv0", "listen": []string{":443"}, "on": true, "served": s.express["served"],
				"handed_over": object{"te": s.express["te"], "header": s.express["header"], "upgrade": s.express["upgrade"]},
				"routes": []object{
					{"hosts": []string{"example.com"}, "paths": []string{"/static/*"}, "handler": "file_server", "served": false, "reason": "file_server"},
					{"hosts": []string{}, "paths": []string{"/<i>beta</i>/*"}, "handler": "load_balancer", "pool": "api", "served": false, "reason": "header"}}},
			{"server": "srv1", "listen": []string{":8443", ":9443"}, "on": false, "reason": "trusted_proxies", "served": 0,
				"handed_over": object{"trusted_proxies": 91}, "routes": []object{}},
		},
		"routes": object{
			"web": object{"routes": []object{{"server": "srv0", "listen": []string{":443"}, "way": []string{"example.com", "/shop/* or /<i>cart</i> (method)"}},
				{"server": "srv2", "listen": []string{":80"}, "way": []string{}}}, "more": 2},
			"api": object{"routes": []object{{"server": "srv0", "listen": []string{":443"}, "way": []string{"told by the express lane"}}}}},
		"fleet": object{
			"nodes": []object{
				{"id": "1", "label": "edge-1", "this": true, "state": "alive", "silent": 0, "admin": "127.0.0.1:2019", "version": "ballast v1.0.0, caddy v2.11.9",
					"pools": []object{{"name": "web", "usable": 9, "total": 10, "requests": 812.5}}},
				{"id": "2", "label": "edge-2", "this": false, "state": "alive", "silent": 3, "admin": "", "version": "ballast v1.0.0, caddy v2.11.9",
					"pools": []object{{"name": "web", "usable": 10, "total": 10, "requests": 790}}},
				{"id": "3", "label": "<b>edge-3</b>", "this": false, "state": "gone", "silent": 312, "admin": "", "version": "ballast v0.9.0, caddy v2.11.9", "alone": true, "pools": []object{}}},
			"differences": []object{{"kind": "usable", "pool": "web", "backend": "10.0.0.3:8080", "values": []object{
				{"value": "active check failed", "nodes": []string{"edge-1"}}, {"value": "usable", "nodes": []string{"edge-2"}}}}},
			"more": 0, "period": 5, "age": 1},
		"process": object{"goroutines": 412 + s.random.IntN(20), "memory": 96<<20 + s.random.IntN(4<<20), "cpu_seconds": s.cpu, "open_files": 380 + s.random.IntN(9),
			"started": s.started.Add(-49 * time.Hour)},
	})
}

// Change implements [dashboard.Source].
func (s *Source) Change(_ context.Context, poolName, backendName string, change []byte, user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fields object
	if err := json.Unmarshal(change, &fields); err != nil {
		return dashboard.Refusal{Status: http.StatusBadRequest, Err: err}
	}
	for _, p := range s.pools {
		if p.name != poolName {
			continue
		}
		b := p.find(backendName)
		if b == nil {
			return dashboard.Refusal{Status: http.StatusNotFound, Err: fmt.Errorf("backend %s: not found in pool %s", backendName, poolName)}
		}
		if weight, ok := fields["weight"].(float64); ok && weight > 65535 {
			return dashboard.Refusal{Status: http.StatusBadRequest, Err: fmt.Errorf("weight %v: must be from 0 to 65535", weight)}
		}
		b.change(fields, user)
		s.tell("backend_changed", poolName, backendName, "changed by "+user, "")
		return nil
	}
	return dashboard.Refusal{Status: http.StatusNotFound, Err: errors.New("pool " + poolName + ": not found")}
}
