// Package history records what the pools and their backends did in the last five minutes, the last hour and the last day. It has no clock
// and reads no counters: its caller samples them every [Step]. It never takes more than a given amount of memory.
package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Step is the time between samples.
	Step = 2 * time.Second
	// Points is the number of points of a range.
	Points = 150
	// Most is the memory of a process for its history, in bytes.
	Most = 10_000_000
)

// Range is a time span of the history.
type Range uint8

const (
	// FiveMinutes has a point for each sample.
	FiveMinutes Range = iota
	// Hour has a point for each 12 samples.
	Hour
	// Day has a point for each 288 samples.
	Day
	ranges
)

// names and per are the names of the ranges and the numbers of samples of their points.
var (
	names = [ranges]string{"5m", "1h", "24h"}
	per   = [ranges]uint64{1, 12, 288}
)

// String returns the name of the range.
func (r Range) String() string { return names[r] }

// Step returns the time between points of the range.
func (r Range) Step() time.Duration { return time.Duration(per[r]) * Step }

// ParseRange returns the range with that name; "" is the shortest.
func ParseRange(name string) (Range, error) {
	if name == "" {
		return FiveMinutes, nil
	}
	if i := slices.Index(names[:], name); i >= 0 {
		return Range(i), nil
	}
	return 0, fmt.Errorf("range %s: must be one of %s", name, strings.Join(names[:], ", "))
}

// firstTick is the tick of the first sample. It is so large that no point of a range has a negative number.
const firstTick = Points * 288

// History is the history of all pools. It is safe for concurrent use; only one goroutine may sample at a time.
type History struct {
	most int

	mu       sync.Mutex // guards the fields below
	pools    map[string]*remembered
	used     int // bytes
	sampling bool
	full     bool   // something had no room in the latest round
	tick     uint64 // counts steps, including those without a sample
	round    uint64 // counts samples
	at       time.Time

	shown   uint64    // tick of the latest complete sample
	shownAt time.Time // when that was
}

// remembered is the history of a pool.
type remembered struct {
	record
	backends map[string]*record // by address
}

// New returns a History that takes at most most bytes.
func New(most int) *History {
	return &History{most: most, pools: make(map[string]*remembered), tick: firstTick - 1}
}

// Round is one sample of all pools.
type Round struct {
	h     *History
	tick  uint64
	round uint64
	took  float64 // seconds since the previous sample; 0 for the first
}

// Begin begins a sample. It returns nil if the previous one was just now or has not ended.
//
// If more than a step has passed, because there was no sample or the clock was set, a gap is left. A clock that is set back leaves no gap,
// but moves the past back with it, so that the order of the points stays.
func (h *History) Begin(now time.Time) *Round {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sampling {
		return nil
	}
	if h.round == 0 {
		h.tick++
	} else {
		steps := 1.0
		// By the wall clock, which continues while a machine sleeps.
		if passed := now.Round(0).Sub(h.at.Round(0)); passed > 0 {
			steps = math.Round(float64(passed) / float64(Step))
		}
		// By the monotonic clock, which cannot be set.
		if ran := now.Sub(h.at); steps < 1 || ran > 0 && ran < Step/2 {
			return nil
		}
		h.tick += uint64(steps)
	}
	r := &Round{h: h, tick: h.tick, round: h.round + 1}
	if h.round > 0 {
		r.took = max(now.Sub(h.at).Seconds(), 0)
	}
	h.sampling, h.full, h.at, h.round = true, false, now, h.round+1
	return r
}

// Pool records the counts of a pool. All pools must come before all backends, which get the remaining room.
func (r *Round) Pool(name string, c *Counts) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	p := r.h.pools[name]
	if p == nil {
		if !r.h.makeRoom(poolBytes, true) {
			return
		}
		p = &remembered{record: newRecord(poolFields, true), backends: make(map[string]*record)}
		r.h.pools[name] = p
		r.h.used += poolBytes
	}
	p.put(r, c)
}

// Backend records the counts of a backend of a pool.
func (r *Round) Backend(pool, address string, c *Counts) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	p := r.h.pools[pool]
	if p == nil {
		return
	}
	b := p.backends[address]
	if b == nil {
		if !r.h.makeRoom(backendBytes, false) {
			return
		}
		made := newRecord(backendFields, false)
		b = &made
		p.backends[address] = b
		r.h.used += backendBytes
	}
	b.put(r, c)
}

// End ends the sample, and removes what has been gone for a day.
func (r *Round) End() {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.sampling, r.h.shown, r.h.shownAt = false, r.tick, r.h.at
	const day = Points * 288
	for name, p := range r.h.pools {
		for address, b := range p.backends {
			if r.tick-b.tick > day {
				r.h.dropBackend(p, address)
			}
		}
		if r.tick-p.tick > day {
			r.h.dropPool(name)
		}
	}
}

func (h *History) dropBackend(p *remembered, address string) {
	delete(p.backends, address)
	h.used -= backendBytes
}

func (h *History) dropPool(name string) {
	h.used -= poolBytes + len(h.pools[name].backends)*backendBytes
	delete(h.pools, name)
}

// makeRoom makes room for that many bytes, if necessary by removing what is gone, the longest gone first. For a pool, backends are removed
// as well. It reports false if there is no room.
func (h *History) makeRoom(bytes int, forPool bool) bool {
	for h.used+bytes > h.most {
		// In a round that has found nothing gone, there is no need to search again.
		if !h.full && h.forgetGone() {
			continue
		}
		h.full = true
		if !forPool || !h.forgetBackend() {
			return false
		}
	}
	return true
}

// forgetGone removes the backend or pool that has been gone for longest, and reports whether there was one.
func (h *History) forgetGone() bool {
	oldest, pool, address := h.round-1, "", ""
	for name, p := range h.pools {
		if p.round < oldest {
			oldest, pool, address = p.round, name, ""
		}
		for a, b := range p.backends {
			if b.round < oldest {
				oldest, pool, address = b.round, name, a
			}
		}
	}
	switch {
	case pool == "":
		return false
	case address == "":
		h.dropPool(pool)
	default:
		h.dropBackend(h.pools[pool], address)
	}
	return true
}

// forgetBackend removes the last backend of the pool with the most backends, and reports whether there was one.
func (h *History) forgetBackend() bool {
	var most *remembered
	for _, p := range h.pools {
		if most == nil || cmp.Compare(len(p.backends), len(most.backends)) > 0 {
			most = p
		}
	}
	if most == nil || len(most.backends) == 0 {
		return false
	}
	last := ""
	for address := range most.backends {
		last = max(last, address)
	}
	h.dropBackend(most, last)
	return true
}
