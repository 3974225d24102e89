package pool

import (
	"sync/atomic"
	"time"
)

// Origin identifies the client and the target of a request by two hashes, each zero if unknown.
type Origin struct {
	Client uint32 // the client's address, or its network
	Target uint32 // the resource
}

// blame records which clients' requests a member fails and which it serves. A breaker only counts failures: it cannot see that all of them
// come from one client, or concern one broken page. Ejecting the member for these would take it from all other clients. Member.mu guards
// it.
//
// It remembers a bounded number of requests. In doubt the member is ejected, for example if it has recently served only the client whose
// requests fail.
type blame struct {
	failed      Origin // of the last failure
	failedAt    int64  // when that was; all times here are in Unix nanoseconds
	since       int64  // when the first of the current failures was: no two of them were further apart than the span
	otherClient int64  // when a failure last came from another client than the failure before it
	otherTarget int64  // when a failure last concerned another resource than the failure before it

	served [2]servedRequest // the latest successes of two different clients
}

type servedRequest struct {
	Origin
	at int64
}

// fail records a failure. Failures further apart than the span are unrelated.
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

// serve records a success.
func (b *blame) serve(o Origin, now time.Time) {
	if b.served[0].Client != o.Client {
		b.served[1] = b.served[0]
	}
	b.served[0] = servedRequest{o, now.UnixNano()}
}

// witnessSpan is how long a success proves that the member serves others.
const witnessSpan = 10 * time.Second

// oneSided reports whether all failures of the span come from one client, or all concern one resource, while the member has recently served
// another client, or other resources to another client.
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

// servedTargets records which member of a pool has recently served which resource: if one member fails what another serves, the fault is
// the member's and not the request's. Entries are overwritten; a missing one delays an ejection but does not prevent it.
type servedTargets struct {
	entries [256]atomic.Uint64 // by hash: 24 bits of the resource, 16 of the member, 24 of the time
}

// servedGrain is the unit of time of the entries. Within it an entry is not rewritten, so that a popular resource does not cause a write
// for every request.
const servedGrain = 250 * time.Millisecond

func (s *servedTargets) note(target uint32, member uint64, now time.Time) {
	entry := &s.entries[target%uint32(len(s.entries))]
	next := uint64(target>>8)<<40 | (member&0xffff)<<24 | uint64(now.UnixNano()/int64(servedGrain))&0xffffff
	if old := entry.Load(); old>>40 != next>>40 || old&0xffffff != next&0xffffff {
		entry.Store(next)
	}
}

// elsewhere reports whether a member other than this one has served the resource since then.
func (s *servedTargets) elsewhere(target uint32, member uint64, since int64) bool {
	entry := s.entries[target%uint32(len(s.entries))].Load()
	if entry == 0 || entry>>40 != uint64(target>>8) || entry>>24&0xffff == member&0xffff {
		return false
	}
	// The difference is computed in 24 bits, as the time is stored. One grain of tolerance is added, because entries are not rewritten
	// within a grain.
	age := (entry - uint64(since/int64(servedGrain)) + 1) & 0xffffff
	return age < 1<<23
}

// oneSided reports whether the failures for which m's breaker would open are due to their client or their resource rather than to the
// member.
func (m *Member) oneSided(span time.Duration, now time.Time) bool {
	m.mu.Lock()
	var b blame
	if m.vitals.blame != nil {
		b = *m.vitals.blame
	}
	m.mu.Unlock()
	return b.oneSided(span, now) && !m.pool.served.elsewhere(b.failed.Target, m.id, b.since)
}

// blameSpan is the time over which failures are considered together.
func (s *Settings) blameSpan() time.Duration { return max(s.Breaker.Window, witnessSpan) }
