package fake

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"time"
)

// pool is a simulated pool.
type pool struct {
	name, policy string
	budget       float64
	queue        int
	panicking    bool
	refuses      float64 // requests per second
	refused      float64 // requests so far
	problems     []object
	warnings     []string
	more         object // fields that few pools have
	backends     []*backend
}

// backend is a simulated backend.
type backend struct {
	rate  float64 // requests per second
	bad   float64 // share of the requests that fail
	shown object  // the backend in a snapshot
}

func newBackend(address string, rate float64, now time.Time) *backend {
	return &backend{rate: rate, bad: 0.0005, shown: object{
		"address": address, "name": address, "weight": 1, "effective_weight": 1.0, "state": "ready", "health": "up", "breaker": "closed", "usable": true,
		"since": now.Add(-26 * time.Hour), "in_flight": 3, "requests": 1e6, "bytes_in": 1.8e9, "bytes_out": 1.4e10, "failures": 12.0, "retries": 4.0, "source": "config",
		"codes":      object{"2xx": 9.7e5, "3xx": 2e4, "4xx": 9e3, "5xx": 1e3},
		"latency_ms": object{"p50": 3.1, "p95": 11.0, "p99": 24.0, "ewma": 4.0},
		"last_check": object{"time": now, "ok": true, "ms": 1.4, "code": 200},
	}}
}

// set overwrites fields of the snapshot.
func (b *backend) set(fields object) *backend {
	for key, value := range fields {
		b.shown[key] = value
	}
	return b
}

// out marks the backend as one that gets no requests.
func (b *backend) out(reason string, since time.Time, fields object) *backend {
	b.rate = 0
	b.set(object{"usable": false, "effective_weight": 0.0, "reason": reason, "since": since, "in_flight": 0})
	return b.set(fields)
}

// somePools returns pools in which every state occurs.
func somePools(now time.Time) []*pool {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	refused := object{"time": now, "ok": false, "ms": 0.4, "error": "dial tcp 10.0.1.3:8080: connect: connection refused"}
	named := func(name, address string, rate float64) *backend {
		return newBackend(address, rate, now).set(object{"name": name})
	}
	drained := named("web-4", "10.0.1.4:8080", 0).out("draining", ago(4*time.Minute), object{"state": "drain", "in_flight": 7, "until": now.Add(26 * time.Minute)})
	drained.set(object{"edits": []object{{"field": "state", "value": "drain", "config": "ready", "until": now.Add(26 * time.Minute), "owner": "ann", "reason": "kernel update", "since": ago(4 * time.Minute)}}})
	slow := named("api-3", "10.0.2.3:8080", 240)
	slow.bad = 0.06
	slow.set(object{"latency_ms": object{"p50": 212.0, "p95": 940.0, "p99": 1830.0, "ewma": 300.0}, "max_requests": 64, "in_flight": 64})
	weighted := named("web-2", "10.0.1.2:8080", 610).set(object{"weight": 5, "effective_weight": 5.0,
		"edits": []object{{"field": "weight", "value": 5, "config": 3, "owner": "bob", "reason": "larger machine", "since": ago(50 * time.Hour)}}})
	canary := object{"backends": []string{"web-5"}, "state": "running", "share": 0.05, "since": ago(100 * time.Second), "revision": "a-1", "next_share": 0.25,
		"next_in": "8m20s", "enough": 250, "error_evidence": 0.02, "latency_evidence": 0.3,
		"canary": object{"backends": 1, "requests": 6950, "failures": 7, "error_rate": 0.001, "p50_ms": 3.2, "p95_ms": 11.3},
		"others": object{"backends": 6, "requests": 131000, "failures": 70, "error_rate": 0.0005, "p50_ms": 3.1, "p95_ms": 11.0}}
	return []*pool{
		{name: "web", policy: "lb_peak_ewma", budget: 412, problems: []object{
			{"severity": "warn", "backend": "web-7", "what": "is slow", "why": "p95 422 ms, 38 times that of its peers; it gets 0.1 % of the requests"},
		}, more: object{
			"canary": canary,
			"shadow": object{"policy": "lb_least_conn", "agreed": 6120, "differed": 7480, "full": 0, "dropped": 0, "agreement": 0.45, "fairness": 0.93,
				"expected_ms": object{"p50": 3.4, "p99": 71.0}, "took_ms": object{"p50": 3.1, "p99": 48.0}},
		}, backends: []*backend{
			named("web-1", "10.0.1.1:8080", 390).set(object{"max_requests": 100, "weight": 3, "effective_weight": 3.0, "in_flight": 14, "zone": "eu-1"}), weighted,
			named("web-3", "10.0.1.3:8080", 0).out("cannot be reached", ago(72*time.Second), object{"health": "down", "last_check": refused}), drained,
			named("web-5", "10.0.1.5:8080", 70).set(object{"effective_weight": 0.43, "slow_start": 0.43, "since": ago(4 * time.Second)}),
			named("web-6", "10.0.1.6:8080", 0).set(object{"backup": true}),
			named("web-7", "10.0.1.7:8080", 1).set(object{"avoided": "its answers take 400 ms, the others' 3.1 ms; tried again in 0.8 s",
				"latency_ms": object{"p50": 396.0, "p95": 422.0, "p99": 431.0, "ewma": 400.0}}),
		}},
		{name: "api", policy: "lb_p2c", budget: 31, queue: 12, refuses: 47, problems: []object{{"severity": "bad", "what": "refuses 47 requests/s", "why": "queue full"}}, warnings: []string{"health check timeout is not below its interval"}, more: object{
			"discovery": []object{{"source": "file:/etc/caddy/api.json", "ok": false, "since": ago(9 * time.Minute), "targets": 3,
				"error": "line 4, column 12: invalid character ']' looking for beginning of value"}},
			"subset": object{"size": 3, "of": 40, "chosen": 3, "further": 2},
		}, backends: []*backend{
			named("api-1", "10.0.2.1:8080", 520).set(object{"max_requests": "auto", "limit": 24, "in_flight": 11}),
			named("api-2", "10.0.2.2:8080", 0).out("breaker is open", ago(11*time.Second), object{"breaker": "open", "until": now.Add(40 * time.Second)}), slow,
			named("api-4", "10.0.2.4:8080", 2).out("breaker is half_open", ago(2*time.Second), object{"breaker": "half_open"}),
			named("api-5", "10.0.2.5:8080", 0).out("maintenance", ago(3*time.Hour), object{"state": "maintenance"}),
			named("api-6", "10.0.2.6:8080", 0).out("not checked yet", ago(time.Second), object{"health": "unknown", "last_check": nil, "latency_ms": nil}),
		}},
		{name: "search", policy: "lb_hash", budget: 100, panicking: true, backends: []*backend{
			named("search-1", "10.0.3.1:9200", 80).set(object{"usable": false, "health": "down", "reason": "active check failed", "since": ago(9 * time.Minute),
				"last_check": object{"time": now, "ok": false, "ms": 12.0, "code": 503, "error": "status 503"}}),
			named("search-2", "10.0.3.2:9200", 75).set(object{"usable": false, "health": "down", "reason": "active check failed", "since": ago(8 * time.Minute),
				"last_check": object{"time": now, "ok": false, "ms": 2000.0, "error": "no answer within 2s <b>&amp;</b> \"quoted\""}}),
		}},
		{name: "static", policy: "lb_round_robin", budget: 100, backends: []*backend{
			newBackend("10.0.4.1:80", 900, now), newBackend("10.0.4.2:80", 903, now), newBackend("[2001:db8::4:3]:80", 899, now)}},
	}
}

func (p *pool) find(name string) *backend {
	for _, b := range p.backends {
		if b.shown["name"] == name {
			return b
		}
	}
	return nil
}

// grow increases the counters by the requests of so many seconds. The rates vary as a wave.
func (p *pool) grow(random *rand.Rand, seconds, age float64) {
	p.refused += math.Round(p.refuses * seconds)
	for _, b := range p.backends {
		n := math.Round(b.rate * seconds * (0.85 + 0.15*math.Sin(age/9) + 0.1*random.Float64()))
		bad := math.Round(n * b.bad * 2 * random.Float64())
		codes := b.shown["codes"].(object)
		b.shown["codes"] = object{"2xx": codes["2xx"].(float64) + math.Round(n*0.96) - bad, "3xx": codes["3xx"].(float64) + math.Round(n*0.03),
			"4xx": codes["4xx"].(float64) + math.Round(n*0.01), "5xx": codes["5xx"].(float64) + bad}
		b.shown["requests"] = b.shown["requests"].(float64) + n
		for name, each := range map[string]float64{"bytes_in": 1800, "bytes_out": 14000} {
			if sum, ok := b.shown[name].(float64); ok {
				b.shown[name] = sum + n*each
			}
		}
		b.shown["failures"] = b.shown["failures"].(float64) + bad
		b.shown["retries"] = b.shown["retries"].(float64) + bad
		if check, ok := b.shown["last_check"].(object); ok && random.IntN(5) == 0 {
			check["time"] = time.Now()
		}
	}
}

func (p *pool) show() object {
	usable, backends := 0, []object{}
	for _, b := range p.backends {
		if b.shown["usable"] == true {
			usable++
		}
		shown := object{}
		for key, value := range b.shown {
			if value != nil {
				shown[key] = value
			}
		}
		backends = append(backends, shown)
	}
	state := "ok"
	switch {
	case p.panicking:
		state = "panic"
	case usable == 0:
		state = "down"
	case usable < len(p.backends):
		state = "degraded"
	}
	requests, codes := p.refused, object{"1xx": 0.0, "5xx": p.refused}
	in, out := 0.0, 0.0
	for _, b := range p.backends {
		sum, _ := b.shown["bytes_in"].(float64)
		in += sum
		sum, _ = b.shown["bytes_out"].(float64)
		out += sum
		for class, n := range b.shown["codes"].(object) {
			requests += n.(float64)
			sum, _ := codes[class].(float64)
			codes[class] = sum + n.(float64)
		}
	}
	problems := p.problems
	if problems == nil {
		problems = []object{}
	}
	shown := object{"name": p.name, "policy": p.policy, "state": state, "usable": usable, "panic": p.panicking, "queue": p.queue,
		"requests": requests, "bytes_in": in, "bytes_out": out, "codes": codes, "canceled": 0, "refused": object{"queue_full": p.refused, "no_backend": 0}, "problems": problems,
		"latency_ms":   object{"p50": 3.4, "p95": 12.0, "p99": 41.0},
		"retry_budget": p.budget, "warnings": p.warnings, "backends": backends}
	maps.Copy(shown, p.more)
	return shown
}

// changes returns how the running settings differ from the config.
func (p *pool) changes() (changes []object) {
	for _, b := range p.backends {
		edits, _ := b.shown["edits"].([]object)
		for _, e := range edits {
			change := object{"backend": b.shown["name"], "field": e["field"], "config": e["config"], "running": e["value"], "owner": e["owner"], "reason": e["reason"]}
			if until, ok := e["until"]; ok {
				change["until"] = until
			}
			changes = append(changes, change)
		}
	}
	return changes
}

// caddyfile returns Caddyfile lines for the changed weights.
func (p *pool) caddyfile() (text string) {
	for _, b := range p.backends {
		if b.shown["weight"] != 1 {
			text += fmt.Sprintf("backend %s {\n\tname %s\n\tweight %v\n}\n", b.shown["address"], b.shown["name"], b.shown["weight"])
		}
	}
	return text
}

// change makes a change in the name of user. A field that is null is reset to the config.
func (b *backend) change(fields object, user string) {
	edits := []object{}
	if before, ok := b.shown["edits"].([]object); ok {
		for _, e := range before {
			if _, again := fields[e["field"].(string)]; again {
				b.shown[e["field"].(string)] = e["config"]
				continue
			}
			edits = append(edits, e)
		}
	}
	for _, field := range []string{"state", "weight"} {
		if value := fields[field]; value != nil {
			edits = append(edits, object{"field": field, "value": value, "config": b.shown[field], "owner": user, "reason": fields["reason"], "since": time.Now()})
			b.shown[field] = value
		}
	}
	b.shown["edits"] = edits
	ready := b.shown["state"] == "ready" && b.shown["health"] == "up"
	b.set(object{"usable": ready, "reason": nil, "since": time.Now()})
	if !ready {
		b.set(object{"reason": map[any]string{"drain": "draining", "maintenance": "maintenance"}[b.shown["state"]]})
	}
}
