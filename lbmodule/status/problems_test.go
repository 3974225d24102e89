package status

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

func TestProblems(t *testing.T) {
	share := func(s float64) *float64 { return &s }
	took := func(p95 float64) *Latency { return &Latency{P50: p95 / 2, P95: p95, P99: p95 * 2} }
	backend := func(name string, p95 float64) Backend {
		return Backend{Name: name, Usable: true, Traffic: Traffic{LatencyMs: took(p95)}, Share: share(0.5)}
	}
	lately := func(ok, errors, canceled uint64, refused map[pool.Refusal]uint64) pool.Lately {
		l := pool.Lately{Span: 10 * time.Second}
		l.Classes[2], l.Classes[5], l.Canceled = ok, errors, canceled
		for cause, n := range refused {
			l.Refused[cause] = n
			l.Classes[5] += n
		}
		return l
	}
	slow := backend("web-3", 841)
	slow.Share = share(0.01)
	avoided := Backend{Name: "web-4", Usable: true, Avoided: "its answers do not come; tried again in 1 s", Share: share(0)}
	away := backend("web-5", 9000)
	away.Usable = false
	many := []Backend{backend("a", 1), backend("b", 1), backend("c", 1), backend("d", 1), backend("e", 1), backend("f", 1), backend("g", 1)}
	for i := range 7 {
		many = append(many, Backend{Name: fmt.Sprint("z", i), Usable: true, Avoided: "why"})
	}
	for name, test := range map[string]struct {
		pool   Pool
		lately pool.Lately
		want   []string
	}{
		"nothing known": {Pool{}, pool.Lately{}, nil},
		"well":          {Pool{Backends: []Backend{backend("a", 5), backend("b", 20)}}, lately(1000, 4, 900, nil), nil},
		"queue full":    {Pool{}, lately(130, 0, 0, map[pool.Refusal]uint64{pool.RefusedQueueFull: 470}), []string{"bad refuses 47 requests/s: queue full"}},
		"two causes": {
			Pool{}, lately(0, 0, 0, map[pool.Refusal]uint64{pool.RefusedNoBackend: 10, pool.RefusedQueueTimeout: 30}),
			[]string{"bad refuses 4 requests/s: queue timeout (75 %), no backend usable (25 %)"},
		},
		"a few": {Pool{}, lately(100, 0, 0, map[pool.Refusal]uint64{pool.RefusedLimit: 3}), []string{"bad has refused 3 requests in 10 s: all backends at max_requests"}},
		"errors": {
			Pool{}, lately(80, 20, 0, map[pool.Refusal]uint64{pool.RefusedNoBackend: 100}),
			[]string{"bad refuses 10 requests/s: no backend usable", "bad answers 20 % of its requests with 5xx: 2 errors/s"},
		},
		"some errors":    {Pool{}, lately(97, 5, 0, nil), []string{"warn answers 4.9 % of its requests with 5xx: 0.5 errors/s"}},
		"one error":      {Pool{}, lately(3, 1, 0, nil), nil},
		"clients left":   {Pool{}, lately(0, 0, 500, nil), nil},
		"slow":           {Pool{Answers: Answers{LatencyMs: &Latency{P50: 2500, P95: 2600}}}, pool.Lately{}, []string{"warn is slow: half of its answers take 2.5 s or more"}},
		"not that slow":  {Pool{Answers: Answers{LatencyMs: &Latency{P50: 900, P95: 2600}}}, pool.Lately{}, nil},
		"one is slow":    {Pool{Backends: []Backend{backend("a", 13), backend("b", 12), slow, away}}, pool.Lately{}, []string{"warn web-3 is slow: p95 841 ms, 70 times that of its peers; it gets 1 % of the requests"}},
		"two of two":     {Pool{Backends: []Backend{backend("a", 13), slow}}, pool.Lately{}, []string{"warn web-3 is slow: p95 841 ms, 65 times that of its peers; it gets 1 % of the requests"}},
		"alone":          {Pool{Backends: []Backend{slow}}, pool.Lately{}, nil},
		"fast, all same": {Pool{Backends: []Backend{backend("a", 1), backend("b", 20)}}, pool.Lately{}, nil}, // 19 ms are not noticed
		"avoided":        {Pool{Backends: []Backend{backend("a", 13), avoided}}, pool.Lately{}, []string{"warn web-4 is avoided: its answers do not come; tried again in 1 s; it gets 0 % of the requests"}},
		"many":           {Pool{Backends: many}, pool.Lately{}, []string{"warn z0 is avoided: why", "warn z1 is avoided: why", "warn z2 is avoided: why", "warn z3 is avoided: why", "warn z4 is avoided: why"}},
		"worst first": {
			Pool{Backends: []Backend{backend("a", 13), backend("b", 13), backend("c", 100), slow}}, lately(50, 50, 0, nil),
			[]string{
				"bad answers 50 % of its requests with 5xx: 5 errors/s", "warn web-3 is slow: p95 841 ms, 65 times that of its peers; it gets 1 % of the requests",
				"warn c is slow: p95 100 ms, 7.7 times that of its peers; it gets 50 % of the requests",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			found := problems(&test.pool, &test.lately)
			if found == nil {
				t.Error("no list of problems, which would be null in JSON")
			}
			for _, p := range found {
				text := p.Severity + " "
				if p.Backend != "" {
					text += p.Backend + " "
				}
				got = append(got, text+p.What+": "+p.Why)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%q\nwant\n%q", got, test.want)
			}
		})
	}
}
