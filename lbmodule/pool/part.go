package pool

import (
	"sync"

	"github.com/ballastlb/ballast/lbmodule/canary"
)

// OpenPart opens a view of the members at these positions of whole, with the settings that whole was opened with. The outcomes of requests
// that the part chooses members for are counted in counts. The panic threshold and max_ejected apply to the whole pool only. The events
// must be passed to [Pool.Report] once no lock is held. The part must be closed before whole is.
func (p *Pool) OpenPart(whole *View, positions []int, settings Settings, counts *canary.Counts) (*View, []Event) {
	part := &View{whole: whole, places: positions, counts: counts, settings: settings}
	for _, i := range positions {
		part.backends = append(part.backends, whole.backends[i])
	}
	return p.open(part)
}

// IsPart reports whether v shows a part of another view's members.
func (v *View) IsPart() bool { return v.whole != nil }

// Serves reports whether v can serve requests without the rest of the pool: at least one member is usable, and v is not panicking.
func (v *View) Serves() bool {
	s := v.snap.Load()
	return s.usable > 0 && !s.panicking
}

// Side returns the counters for the outcome of the attempt; nil if it is not counted.
func (l *Lease) Side() *canary.Counts {
	if l.member == nil {
		return nil
	}
	return l.view.counts
}

// canaries are the canaries of a pool: one, or two while one config replaces another.
type canaries struct {
	mu   sync.Mutex
	runs map[string]*canaryRun // by the description of their settings
}

type canaryRun struct {
	run  *canary.Run
	refs int
}

// Canary returns the pool's canary with these settings, an existing one or a new one. description must identify the settings. The canary is
// kept until release has been called as often as Canary.
func (p *Pool) Canary(description string, s canary.Settings) (run *canary.Run, release func()) {
	c := &p.canaries
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.runs[description]
	if have == nil {
		if c.runs == nil {
			c.runs = make(map[string]*canaryRun)
		}
		have = &canaryRun{run: canary.New(p.name, s)}
		c.runs[description] = have
	}
	have.refs++
	return have.run, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if have.refs--; have.refs == 0 {
			delete(c.runs, description)
		}
	})
}
