package top

import (
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// Sample is the state that the API returned at one time.
type Sample struct {
	Pools []api.Pool
	Taken time.Time // by this computer's clock, for rates
	Now   time.Time // by the server's clock, for ages and times left

	EventsOf [2]string // the pool and backend of Events
	Events   []string  // in words, oldest first
}

// name identifies a backend of a pool, or the pool if backend is empty.
type name struct{ pool, backend string }

// rate is the traffic of a pool or a backend between two samples.
type rate struct {
	known    bool
	requests float64 // per second
	failed   float64 // share of the requests that failed, from 0 to 1
}

// rates computes the rates between two samples. A backend whose counters fell has been reset; its rate is unknown until the next sample.
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
