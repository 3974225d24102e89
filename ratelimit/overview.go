package ratelimit

import (
	"cmp"
	"slices"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// zoneOverview describes a zone in the API.
type zoneOverview struct {
	Zone        string            `json:"zone"`
	Rate        string            `json:"rate,omitempty"`
	Burst       int               `json:"burst,omitempty"`
	Concurrency int               `json:"concurrency,omitempty"`
	DryRun      bool              `json:"dry_run"`
	Keys        int               `json:"keys"`
	MaxKeys     int               `json:"max_keys"`
	Evictions   uint64            `json:"evictions"`
	Decisions   map[string]uint64 `json:"decisions"`
	Store       *storeOverview    `json:"store,omitempty"`
	Busiest     []keyOverview     `json:"busiest,omitempty"`
}

// storeOverview describes a zone's store in the API.
type storeOverview struct {
	Available bool   `json:"available"`
	Errors    uint64 `json:"errors"`
}

// keyOverview describes a key in the API.
type keyOverview struct {
	Key          string   `json:"key"`
	Tokens       float64  `json:"tokens"` // in this Caddy
	SharedTokens *float64 `json:"shared_tokens,omitempty"`
	Burst        int      `json:"burst,omitempty"`
	InFlight     int      `json:"in_flight"`
	Requests     int      `json:"requests"` // recent ones: halved every ten seconds
	Refused      int      `json:"refused"`  // refused ones among them
}

// joined returns the zones of a's config, sorted by name.
func (a *App) joined() []*joinedZone {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(slices.Values(a.zones), func(x, y *joinedZone) int { return cmp.Compare(x.name, y.name) })
}

// Overview describes the zones, sorted by name. As JSON they are as in the API.
func (a *App) Overview() any { return overviews(a.joined()) }

func overviews(zones []*joinedZone) []zoneOverview {
	list := make([]zoneOverview, 0, len(zones))
	for _, z := range zones {
		list = append(list, z.overview())
	}
	return list
}

func (z *joinedZone) overview() zoneOverview {
	h := z.handler
	o := zoneOverview{
		Zone: z.name, Rate: filledIn(h.Rate), Burst: h.limits.Burst, Concurrency: h.limits.Concurrency, DryRun: h.DryRun,
		Keys: z.table.Keys(), MaxKeys: h.maxKeys(), Evictions: z.table.Evictions(), Decisions: make(map[string]uint64),
	}
	for d := range decisions {
		o.Decisions[d.String()] = z.decisions[d].Load()
	}
	if z.store != nil {
		o.Store = &storeOverview{Available: z.store.Available(), Errors: z.storeErrors.Load()}
	}
	return o
}

func (z *joinedZone) keyOverview(u bucket.Usage) keyOverview {
	return keyOverview{Key: u.Name, Tokens: u.Tokens, Burst: u.Limits.Burst, InFlight: u.InFlight, Requests: u.Requests, Refused: u.Refused}
}
