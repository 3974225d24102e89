package top

import (
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// Sample is what the API told at a moment.
type Sample struct {
	Pools []api.Pool
	Taken time.Time // by our clock: rates are told from two of them
	Now   time.Time // by the server's clock: how long things last is told from it
}

// name says which backend of which pool. Without a backend, it is the pool.
type name struct{ pool, backend string }

// rate is what a pool or a backend did from one sample to the next.
type rate struct {
	known    bool
	requests float64 // per second
	failed   float64 // share of them, 0 to 1
}

// rates compares two samples. A backend whose counters went back has been reset, and is not known until the next one.
func rates(before, after Sample) map[name]rate {
	found := make(map[name]rate)
	elapsed := after.Taken.Sub(before.Taken).Seconds()
	if before.Taken.IsZero() || elapsed <= 0 {
		return found
	}
	then, asked := make(map[name]*api.Backend), make(map[string]uint64)
	for i := range before.Pools {
		asked[before.Pools[i].Name] = before.Pools[i].Requests
		for j := range before.Pools[i].Backends {
			b := &before.Pools[i].Backends[j]
			then[name{before.Pools[i].Name, b.Name}] = b
		}
	}
	for _, p := range after.Pools {
		if old, ok := asked[p.Name]; ok && old <= p.Requests {
			found[name{pool: p.Name}] = rate{known: true, requests: float64(p.Requests-old) / elapsed}
		}
		for _, b := range p.Backends {
			n := name{p.Name, b.Name}
			old, ok := then[n]
			if !ok || old.Requests > b.Requests || old.Failures > b.Failures {
				continue
			}
			r := rate{known: true, requests: float64(b.Requests-old.Requests) / elapsed}
			if requests := b.Requests - old.Requests; requests > 0 {
				r.failed = min(1, float64(b.Failures-old.Failures)/float64(requests))
			}
			found[n] = r
		}
	}
	return found
}
