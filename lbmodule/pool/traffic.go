package pool

import (
	"sync/atomic"
	"time"
)

// maxNamed is how many members of a pool are told apart in what is counted. Those beyond it are counted together: metrics
// of more would help nobody.
const maxNamed = 1000

// maxTimed is how many of them have histograms of their own, which are most of what is counted, in memory and in metrics.
const maxTimed = 200

// Phase is a part of an attempt that takes time.
type Phase uint8

const (
	// Connect is making a connection, where none was kept that could be used.
	Connect Phase = iota
	// FirstByte is from the beginning to the answer's header.
	FirstByte
	// Total is from the beginning to the end of the answer, or to the failure.
	Total
	// Phases is how many there are.
	Phases
)

// String returns the phase as metrics show it.
func (p Phase) String() string { return [Phases]string{"connect", "first_byte", "total"}[p] }

// EjectionMode says whether a breaker that should take a member out does so.
type EjectionMode uint8

const (
	// EjectionDetected is that a member fails so much that its breaker should open.
	EjectionDetected EjectionMode = iota
	// EjectionEnforced is that it is taken out. What keeps it in is the bound max_ejected, or dry_run.
	EjectionEnforced
	// EjectionModes is how many there are.
	EjectionModes
)

// String returns the mode as metrics show it.
func (m EjectionMode) String() string { return [EjectionModes]string{"detected", "enforced"}[m] }

// Classes is how many classes of statuses there are, and one for what is none of them.
const Classes = 6

// Class is the class of a status: 1 for 1xx and so on, 0 for what has none.
func Class(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status / 100
}

// Calls is how many statuses of gRPC calls are told apart: the 17 of gRPC by their codes, and all others.
const Calls = 18

// Traffic is what is counted of attempts on a member, for good. Counting takes no lock and allocates nothing.
type Traffic struct {
	ended     [Outcomes]atomic.Uint64
	answers   [Classes]atomic.Uint64
	calls     [Calls]atomic.Uint64
	retried   atomic.Uint64
	bytesIn   atomic.Uint64
	bytesOut  atomic.Uint64
	ejections [EjectionModes]atomic.Uint64
	phases    *[Phases]Histogram      // its own, or those of the others
	recent    atomic.Pointer[Latency] // of FirstByte; nil before the first answer

	reset atomic.Pointer[TrafficCounts] // what had been counted at the last reset; nil if there was none
}

// TrafficCounts is what a Traffic has counted.
type TrafficCounts struct {
	Ended     [Outcomes]uint64      // attempts by how they ended
	Answers   [Classes]uint64       // answers by the class of their status
	Calls     [Calls]uint64         // gRPC calls by their status
	Retried   uint64                // attempts that were made again
	BytesIn   uint64                // of the bodies of requests, sent to the member
	BytesOut  uint64                // of the bodies of answers, received from it
	Ejections [EjectionModes]uint64 // how often the breaker should have taken the member out, and did
}

// Connected counts a connection that was made.
func (t *Traffic) Connected(took time.Duration) { t.phases[Connect].Add(took) }

// Answered counts that the header of an answer came.
func (t *Traffic) Answered(took time.Duration, now time.Time) {
	t.phases[FirstByte].Add(took)
	recent := t.recent.Load()
	if recent == nil {
		t.recent.CompareAndSwap(nil, new(Latency))
		recent = t.recent.Load()
	}
	recent.Add(took, now)
}

// Ended counts the end of an attempt. The status is that of the answer, 0 if there was none.
func (t *Traffic) Ended(o Outcome, status int, took time.Duration) {
	t.ended[o].Add(1)
	if status != 0 {
		t.answers[Class(status)].Add(1)
	}
	t.phases[Total].Add(took)
}

// EndedCall counts that the attempt was a gRPC call which ended with that status.
func (t *Traffic) EndedCall(status int) { t.calls[status].Add(1) }

// Repeated counts that an attempt was made again.
func (t *Traffic) Repeated() { t.retried.Add(1) }

// CountIn counts n bytes of a request's body, sent to the member.
func (t *Traffic) CountIn(n int) { t.bytesIn.Add(uint64(n)) }

// CountOut counts n bytes of an answer's body, received from the member.
func (t *Traffic) CountOut(n int) { t.bytesOut.Add(uint64(n)) }

// Counts returns what has been counted in all.
func (t *Traffic) Counts() (c TrafficCounts) {
	for i := range c.Ended {
		c.Ended[i] = t.ended[i].Load()
	}
	for i := range c.Answers {
		c.Answers[i] = t.answers[i].Load()
	}
	for i := range c.Calls {
		c.Calls[i] = t.calls[i].Load()
	}
	for i := range c.Ejections {
		c.Ejections[i] = t.ejections[i].Load()
	}
	c.Retried, c.BytesIn, c.BytesOut = t.retried.Load(), t.bytesIn.Load(), t.bytesOut.Load()
	return c
}

// SinceReset returns what has been counted since the member was last reset.
func (t *Traffic) SinceReset() TrafficCounts {
	c, before := t.Counts(), t.reset.Load()
	if before == nil {
		return c
	}
	for i := range c.Ended {
		c.Ended[i] -= before.Ended[i]
	}
	for i := range c.Answers {
		c.Answers[i] -= before.Answers[i]
	}
	for i := range c.Calls {
		c.Calls[i] -= before.Calls[i]
	}
	for i := range c.Ejections {
		c.Ejections[i] -= before.Ejections[i]
	}
	c.Retried -= before.Retried
	c.BytesIn -= before.BytesIn
	c.BytesOut -= before.BytesOut
	return c
}

// begin has SinceReset count from now on.
func (t *Traffic) begin() {
	c := t.Counts()
	t.reset.Store(&c)
}

// Duration returns how long the phase took.
func (t *Traffic) Duration(p Phase) *Distribution { return t.phases[p].Distribution() }

// Quantiles returns the durations until attempts were answered that these shares of the recent ones did not exceed; nil if there were none
// in the last minute.
func (t *Traffic) Quantiles(now time.Time, shares ...float64) []time.Duration {
	recent := t.recent.Load()
	if recent == nil {
		return nil
	}
	return recent.Quantiles(now, shares...)
}

// Quantiles returns the same of all members of the view together.
func (v *View) Quantiles(now time.Time, shares ...float64) []time.Duration {
	var counts [bucketCount]uint64
	total, others := uint64(0), false
	for _, m := range v.members {
		if !m.Named() {
			if others {
				continue
			}
			others = true
		}
		if recent := m.traffic.recent.Load(); recent != nil && !recent.isStale(now) {
			total += recent.count(&counts)
		}
	}
	return quantiles(&counts, total, shares)
}

// newTraffic returns where a new member counts. It is called with p.mu held.
func (p *Pool) newTraffic(unnamed bool) *Traffic {
	if unnamed || p.named >= maxNamed {
		return p.others
	}
	p.named++
	if p.timed >= maxTimed {
		return &Traffic{phases: p.others.phases}
	}
	p.timed++
	return newTraffic()
}

// newTraffic returns a Traffic with histograms of its own.
func newTraffic() *Traffic { return &Traffic{phases: new([Phases]Histogram)} }

// Named reports whether m has counters of its own.
func (m *Member) Named() bool { return m.traffic != m.pool.others }

// Timed reports whether m has histograms of its own.
func (m *Member) Timed() bool { return m.traffic.phases != m.pool.others.phases }

// Traffic is what is counted of m, or if it is not named of all who are not.
func (m *Member) Traffic() *Traffic { return m.traffic }

// Others is what is counted of those who are not told apart.
func (p *Pool) Others() *Traffic { return p.others }

// TrafficOf is what is counted of the member with that address.
func (p *Pool) TrafficOf(address string) *Traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.members[address]; m != nil {
		return m.traffic
	}
	return p.others
}

// Picks is what was counted of picks that went by what is known of a member's answers.
type Picks struct {
	Avoided uint64 // that went to another member for it
	Trials  uint64 // that went to the member all the same, to find out whether it still holds
}

// Picks returns what has been counted of m, for good.
func (m *Member) Picks() Picks { return Picks{m.latency.Avoided(), m.latency.Trials()} }

func (p *Picks) add(more Picks) {
	p.Avoided += more.Avoided
	p.Trials += more.Trials
}

// OtherPicks is the sum of all members that are not named, also of those that the pool has forgotten, so that it never falls.
func (p *Pool) OtherPicks() Picks {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.forgotten
	for _, m := range p.members {
		if !m.Named() {
			sum.add(m.Picks())
		}
	}
	return sum
}

// HedgeWon counts that a copy of a request was answered before the request.
func (p *Pool) HedgeWon() { p.hedgesWon.Add(1) }

// HedgesWon is how often a copy of a request was answered first.
func (p *Pool) HedgesWon() uint64 { return p.hedgesWon.Load() }

const (
	firstStatus = 100
	lastStatus  = 599
)

// answers counts what clients were answered, by status. The last one is of statuses that are none.
type answers [lastStatus - firstStatus + 2]atomic.Uint64

// CountAnswer counts a request that was answered with that status.
func (p *Pool) CountAnswer(status int) {
	if status < firstStatus || status > lastStatus {
		status = lastStatus + 1
	}
	p.answers[status-firstStatus].Add(1)
}

// Answers yields how many requests were answered with each status, of those that there were; status 0 stands for what is
// none.
func (p *Pool) Answers(yield func(status int, n uint64) bool) {
	for i := range p.answers {
		status := firstStatus + i
		if status > lastStatus {
			status = 0
		}
		if n := p.answers[i].Load(); n > 0 && !yield(status, n) {
			return
		}
	}
}
