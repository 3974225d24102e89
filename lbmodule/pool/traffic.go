package pool

import (
	"sync/atomic"
	"time"
)

// maxNamed is the maximum number of members of a pool with their own counters. Further members share one set: metrics for more members
// would not be useful.
const maxNamed = 1000

// maxTimed is the maximum number of members with their own histograms, which take up most of the memory and of the metrics.
const maxTimed = 200

// Phase is a part of an attempt that takes time.
type Phase uint8

const (
	// Connect is the time to make a connection, if no kept one could be used.
	Connect Phase = iota
	// FirstByte is the time from the beginning to the answer's header.
	FirstByte
	// Total is the time from the beginning to the end of the answer, or to the failure.
	Total
	// Phases is the number of phases.
	Phases
)

// String returns the phase as metrics show it.
func (p Phase) String() string { return [Phases]string{"connect", "first_byte", "total"}[p] }

// EjectionMode distinguishes the ejections that a breaker called for from those that took place.
type EjectionMode uint8

const (
	// EjectionDetected means that a member fails so often that its breaker should open.
	EjectionDetected EjectionMode = iota
	// EjectionEnforced means that the member is taken out. max_ejected or dry_run can prevent that.
	EjectionEnforced
	// EjectionModes is the number of modes.
	EjectionModes
)

// String returns the mode as metrics show it.
func (m EjectionMode) String() string { return [EjectionModes]string{"detected", "enforced"}[m] }

// Classes is the number of status classes, including one for invalid statuses.
const Classes = 6

// Class returns the class of a status: 1 for 1xx and so on, 0 for an invalid status.
func Class(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status / 100
}

// Calls is the number of gRPC statuses that are counted separately: the 17 codes of gRPC, and one for all others.
const Calls = 18

// Traffic holds the counters of attempts on a member, which never decrease. Counting takes no lock, and allocates only when a histogram
// bucket is first used.
type Traffic struct {
	ended     [Outcomes]atomic.Uint64
	answers   [Classes]atomic.Uint64
	calls     [Calls]atomic.Uint64
	retried   atomic.Uint64
	bytesIn   atomic.Uint64
	bytesOut  atomic.Uint64
	ejections [EjectionModes]atomic.Uint64
	phases    *[Phases]Histogram      // own histograms, or the shared ones
	recent    atomic.Pointer[Latency] // of FirstByte; nil before the first answer

	reset atomic.Pointer[TrafficCounts] // the counts at the last reset; nil if there was none
}

// TrafficCounts holds the counts of a Traffic.
type TrafficCounts struct {
	Ended     [Outcomes]uint64      // attempts by how they ended
	Answers   [Classes]uint64       // answers by the class of their status
	Calls     [Calls]uint64         // gRPC calls by their status
	Retried   uint64                // attempts that were retried
	BytesIn   uint64                // bytes of request bodies, sent to the member
	BytesOut  uint64                // bytes of answer bodies, received from the member
	Ejections [EjectionModes]uint64 // ejections by mode
}

// Connected records that a connection was made.
func (t *Traffic) Connected(took time.Duration) { t.phases[Connect].Add(took) }

// Answered records that the header of an answer arrived.
func (t *Traffic) Answered(took time.Duration, now time.Time) {
	t.phases[FirstByte].Add(took)
	recent := t.recent.Load()
	if recent == nil {
		t.recent.CompareAndSwap(nil, new(Latency))
		recent = t.recent.Load()
	}
	recent.Add(took, now)
}

// Ended records the end of an attempt. status is that of the answer, 0 if there was none.
func (t *Traffic) Ended(o Outcome, status int, took time.Duration) {
	t.ended[o].Add(1)
	if status != 0 {
		t.answers[Class(status)].Add(1)
	}
	t.phases[Total].Add(took)
}

// EndedCall records that the attempt was a gRPC call that ended with that status.
func (t *Traffic) EndedCall(status int) { t.calls[status].Add(1) }

// Repeated records that an attempt was retried.
func (t *Traffic) Repeated() { t.retried.Add(1) }

// CountIn records that n bytes of a request's body were sent to the member.
func (t *Traffic) CountIn(n int) {
	if n > 0 { // requests without a body leave the shared counter alone
		t.bytesIn.Add(uint64(n))
	}
}

// CountOut records that n bytes of an answer's body were received from the member.
func (t *Traffic) CountOut(n int) { t.bytesOut.Add(uint64(n)) }

// Counts returns all counts since the Traffic was created.
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

// SinceReset returns the counts since the member was last reset.
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

// begin makes SinceReset count from now on.
func (t *Traffic) begin() {
	c := t.Counts()
	t.reset.Store(&c)
}

// Duration returns the distribution of the phase's duration.
func (t *Traffic) Duration(p Phase) *Distribution { return t.phases[p].Distribution() }

// Quantiles returns quantiles of the time until recent attempts were answered; nil if there were none in the last minute.
func (t *Traffic) Quantiles(now time.Time, shares ...float64) []time.Duration {
	recent := t.recent.Load()
	if recent == nil {
		return nil
	}
	return recent.Quantiles(now, shares...)
}

// Quantiles returns the same for all members of the view together.
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

// newTraffic returns the Traffic for a new member, its own or the shared one. The caller holds p.mu.
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

// newTraffic returns a Traffic with its own histograms.
func newTraffic() *Traffic { return &Traffic{phases: new([Phases]Histogram)} }

// Named reports whether m has counters of its own.
func (m *Member) Named() bool { return m.traffic != m.pool.others }

// Timed reports whether m has histograms of its own.
func (m *Member) Timed() bool { return m.traffic.phases != m.pool.others.phases }

// Traffic returns m's counters, or the shared ones if m has none of its own.
func (m *Member) Traffic() *Traffic { return m.traffic }

// Others returns the counters shared by members without their own.
func (p *Pool) Others() *Traffic { return p.others }

// TrafficOf returns the counters of the member with that address, or the shared ones if there is no such member.
func (p *Pool) TrafficOf(address string) *Traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.members[address]; m != nil {
		return m.traffic
	}
	return p.others
}

// Picks counts the picks that a member's past answers influenced.
type Picks struct {
	Avoided uint64 // picks that went to another member because of them
	Trials  uint64 // picks of the member although it was avoided, to find out whether it still answers badly
}

// Picks returns the counts of m, which never decrease.
func (m *Member) Picks() Picks { return Picks{m.latency.Avoided(), m.latency.Trials()} }

func (p *Picks) add(more Picks) {
	p.Avoided += more.Avoided
	p.Trials += more.Trials
}

// OtherPicks returns the sum over all members that are not named, including deleted ones, so that it never decreases.
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

// HedgeWon records that a copy of a request was answered before the request itself.
func (p *Pool) HedgeWon() { p.hedgesWon.Add(1) }

// HedgesWon returns how often a copy of a request was answered first.
func (p *Pool) HedgesWon() uint64 { return p.hedgesWon.Load() }

const (
	firstStatus = 100
	lastStatus  = 599
)

// answers counts the answers to clients by status. The last element counts invalid statuses.
type answers [lastStatus - firstStatus + 2]atomic.Uint64

// CountAnswer counts a request that was answered with that status.
func (p *Pool) CountAnswer(status int) {
	if status < firstStatus || status > lastStatus {
		status = lastStatus + 1
	}
	p.answers[status-firstStatus].Add(1)
}

// Answers yields each status that occurred with the number of requests answered with it. Status 0 stands for invalid statuses.
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
