package pool

import (
	"sync/atomic"
	"time"
)

// Origin tells requests apart by who sent them and what they ask for: two hashes, both zero where that is not known.
type Origin struct {
	Client uint32 // the client's address, or its network
	Target uint32 // the resource
}

// blame is whose requests a member fails and whose it serves. A breaker counts failures and cannot see that all of them are one
// client's, or concern one broken page; ejecting a member for these takes it from everybody else. Member.mu guards it.
//
// It remembers a bounded number of requests, so it answers in favor of ejecting when it does not know: a member that has lately
// served only the client whose requests fail is ejected as before.
type blame struct {
	failed      Origin // of the last failure
	failedAt    int64  // when that was; all times here are in Unix nanoseconds
	since       int64  // when the first of these failures was: between them there was no pause as long as the span
	otherClient int64  // when a failure was last another client's than the failure before it
	otherTarget int64  // when it last concerned another resource

	served [2]servedRequest // the latest successes of two different clients
}

type servedRequest struct {
	Origin
	at int64
}

// fail books a failure. Failures that are further apart than the span have nothing to do with each other.
func (b *blame) fail(o Origin, span time.Duration, now time.Time) {
	at := now.UnixNano()
	if at-b.failedAt >= int64(span) {
		b.since, b.otherClient, b.otherTarget = at, 0, 0
	} else {
		if o.Client != b.failed.Client {
			b.otherClient = at
		}
		if o.Target != b.failed.Target {
			b.otherTarget = at
		}
	}
	b.failed, b.failedAt = o, at
}

// serve books a success.
func (b *blame) serve(o Origin, now time.Time) {
	if b.served[0].Client != o.Client {
		b.served[1] = b.served[0]
	}
	b.served[0] = servedRequest{o, now.UnixNano()}
}

// witnessSpan is for how long a success proves that the member serves others.
const witnessSpan = 10 * time.Second

// oneSided tells whether the failures of the span are all of one client, or all concern one resource, while the member has lately
// served somebody else.
func (b *blame) oneSided(span time.Duration, now time.Time) bool {
	at := now.UnixNano()
	recent := func(then int64) bool { return at-then < int64(span) }
	oneClient, oneTarget := !recent(b.otherClient), !recent(b.otherTarget)
	if b.failed == (Origin{}) || !oneClient && !oneTarget {
		return false
	}
	for _, s := range b.served {
		if s.Client != 0 && at-s.at < int64(witnessSpan) && s.Client != b.failed.Client && (oneClient || s.Target != b.failed.Target) {
			return true
		}
	}
	return false
}

// servedTargets is which resources a pool has served lately, and by which member: where one member fails what another serves, it is
// the member that fails and not the request. Entries are overwritten; one that is missing delays an ejection, and prevents none.
type servedTargets struct {
	entries [256]atomic.Uint64 // by hash: 24 bits of the resource, 16 of the member, 24 of the time
}

// servedGrain is the unit of time there. An entry that is not older stays, so that a popular resource is not written to by
// every request.
const servedGrain = 250 * time.Millisecond

func (s *servedTargets) note(target uint32, member uint64, now time.Time) {
	entry := &s.entries[target%uint32(len(s.entries))]
	next := uint64(target>>8)<<40 | (member&0xffff)<<24 | uint64(now.UnixNano()/int64(servedGrain))&0xffffff
	if old := entry.Load(); old>>40 != next>>40 || old&0xffffff != next&0xffffff {
		entry.Store(next)
	}
}

// elsewhere tells whether a member other than this one has served the resource since then.
func (s *servedTargets) elsewhere(target uint32, member uint64, since int64) bool {
	entry := s.entries[target%uint32(len(s.entries))].Load()
	if entry == 0 || entry>>40 != uint64(target>>8) || entry>>24&0xffff == member&0xffff {
		return false
	}
	// The difference is taken in 24 bits, as the time is. One grain earlier counts, too: the entry may not have been renewed since.
	age := (entry - uint64(since/int64(servedGrain)) + 1) & 0xffffff
	return age < 1<<23
}

// oneSided tells whether the failures that a breaker of m would open for are to be put down to who sent the requests, or to what they
// asked for, rather than to the member.
func (m *Member) oneSided(span time.Duration, now time.Time) bool {
	m.mu.Lock()
	b := m.vitals.blame
	m.mu.Unlock()
	return b.oneSided(span, now) && !m.pool.served.elsewhere(b.failed.Target, m.id, b.since)
}

// blameSpan is over which time failures are looked at together.
func (s *Settings) blameSpan() time.Duration { return max(s.Breaker.Window, witnessSpan) }
