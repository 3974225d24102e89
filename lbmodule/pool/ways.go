package pool

import (
	"sync"
	"sync/atomic"
)

// detours counts, by reason, the attempts that did not take the ordinary way to a backend. There are only a few reasons. The zero detours
// is ready for use.
type detours struct{ byReason sync.Map } // string -> *atomic.Uint64

// Detoured counts an attempt that does not take the ordinary way to its backend.
func (p *Pool) Detoured(reason string) {
	n, ok := p.detours.byReason.Load(reason)
	if !ok {
		n, _ = p.detours.byReason.LoadOrStore(reason, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1)
}

// Ways returns how many attempts took the ordinary way to their backend and, for each reason, how many did not. The ordinary ones are not
// counted by themselves: they are all attempts that have ended or are in flight, less the others.
func (p *Pool) Ways() (ordinary uint64, detours map[string]uint64) {
	detours = make(map[string]uint64)
	sum := uint64(0)
	for reason, n := range p.detours.byReason.Range {
		count := n.(*atomic.Uint64).Load()
		detours[reason.(string)] = count
		sum += count
	}
	all := p.attempts()
	return max(all, sum) - sum, detours
}

// attempts returns the number of attempts that have ended or are in flight.
func (p *Pool) attempts() uint64 {
	n := p.others.attempts()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		n += uint64(max(m.load.Load(), 0))
		if m.Named() {
			n += m.traffic.attempts()
		}
	}
	return n + p.leftAttempts
}

// attempts returns the number of attempts that have ended.
func (t *Traffic) attempts() (n uint64) {
	for i := range t.ended {
		n += t.ended[i].Load()
	}
	return n
}
