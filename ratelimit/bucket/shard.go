package bucket

import (
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// entry is the state of a key. It has 144 bytes: one more field costs 16 bytes more for each client.
type entry struct {
	heldUntil time.Duration // since the shard's epoch
	limiter   rate.Limiter  // guarded by the shard's lock, so its own lock is never contended
	requests  uint32        // recent requests: halved by each sweep
	refused   uint32        // refused ones among them
	inFlight  int32
	key       Key
	recent    bool // used since the clock hand passed
	used      bool // the slot holds a key

	// Fields that decisions do not need come last; they are often in another cache line.
	textLen uint8         // 0 if the text is not kept
	text    [maxText]byte // of a TextKey
}

// slab is a block of memory for entries. It keeps the number of heap objects small: with one object for each client, the garbage collector
// would use a tenth of the time.
type slab [64]entry

// maxText is the longest text that is kept. Longer ones are often credentials, which should not be shown.
const maxText = 16

// shard is a part of a table.
type shard struct {
	mu        sync.Mutex // guards all fields
	limits    Limits
	last      time.Time // the latest time that was seen
	epoch     time.Time // of entry.heldUntil
	index     map[Key]*entry
	slabs     []*slab // the entries, by slot
	slots     int     // number of slots that have ever been used
	free      []int32 // those of them that are free
	hand      int     // clock hand: the next slot to look at for eviction
	max       int     // largest number of slots
	evictions *atomic.Uint64

	// While all entries owe, there is no need to look for one to drop.
	allOwe   time.Time // no entry may be dropped before, unless one is forgotten or a request ends
	owing    int       // number of owing entries that the hand has passed in a row
	earliest time.Time // when the first of them owes nothing any more

	_ [64]byte // keeps neighbours in different cache lines
}

// time returns now, or the latest time seen if that is later: time does not run backwards.
func (s *shard) time(now time.Time) time.Time {
	s.last = later(s.last, now)
	return s.last
}

func (s *shard) at(slot int) *entry { return &s.slabs[slot/len(slab{})][slot%len(slab{})] }

// each calls f for all entries in use.
func (s *shard) each(f func(slot int, e *entry)) {
	for slot := range s.slots {
		if e := s.at(slot); e.used {
			f(slot, e)
		}
	}
}

// find returns the entry of k, creating it if necessary, or nil if there is no room.
func (s *shard) find(k Key, text string, now time.Time) *entry {
	if e := s.index[k]; e != nil {
		e.recent = true
		return e
	}
	slot := s.room(now)
	if slot < 0 {
		return nil
	}
	e := s.at(slot)
	*e = entry{key: k, used: true}
	if len(text) <= maxText && utf8.ValidString(text) {
		e.textLen = uint8(copy(e.text[:], text))
	}
	s.fill(e, 1, now)
	s.index[k] = e
	return e
}

// take copies an entry of another shard, or of slabs that are given up, into a slot of s.
func (s *shard) take(slot int, from *entry, share float64, now time.Time) {
	e := s.at(slot)
	*e = entry{
		heldUntil: from.heldUntil, requests: from.requests, refused: from.refused, inFlight: from.inFlight,
		key: from.key, text: from.text, textLen: from.textLen, used: true, recent: from.recent,
	}
	s.fill(e, share, now)
	s.index[e.key] = e
}

// only returns the entry of a shard that has just one.
func (s *shard) only(now time.Time) *entry {
	if s.slots == 0 {
		e := s.at(s.room(now))
		e.used = true
		s.fill(e, 1, now)
	}
	return s.at(0)
}

// admit charges a request to e, or returns why it is refused and when a retry may succeed. With tokens false it only checks the requests in
// flight.
func (s *shard) admit(e *entry, tokens bool, now time.Time) (Cause, time.Duration) {
	e.requests++
	multiple := e.key.Multiple()
	if tokens && e.heldUntil > 0 {
		if held := e.heldUntil - now.Sub(s.epoch); held > 0 {
			e.refused++
			return Rate, held
		}
	}
	if most := s.limits.Concurrency * multiple; most > 0 && int(e.inFlight) >= most {
		e.refused++
		wait := time.Second
		if tokens && s.limits.Rate > 0 {
			wait = max(wait, s.untilOne(e, now)) // when a request in flight has ended, the next one still needs a token
		}
		return Concurrency, wait
	}
	if tokens && s.limits.Rate > 0 && !e.limiter.AllowN(now, 1) {
		e.refused++
		return Rate, s.untilOne(e, now)
	}
	return 0, 0
}

// untilOne returns the time until e holds a token.
func (s *shard) untilOne(e *entry, now time.Time) time.Duration {
	missing := 1 - e.limiter.TokensAt(now)
	return time.Duration(missing / float64(e.limiter.Limit()) * float64(time.Second))
}

// fill fills e's bucket to that share, with the shard's limits. A new limiter is empty, so its start is set back in time.
func (s *shard) fill(e *entry, share float64, now time.Time) {
	e.limiter = rate.Limiter{}
	if s.limits.Rate == 0 {
		return
	}
	limit, burst := s.limits.Rate*rate.Limit(e.key.Multiple()), s.limits.Burst*e.key.Multiple()
	took := time.Duration(share * float64(burst) / float64(limit) * float64(time.Second))
	if share >= 1 {
		took += time.Second // no token is lost to rounding
	}
	e.limiter.SetLimitAt(now.Add(-took), limit)
	e.limiter.SetBurstAt(now.Add(-took), burst)
}

// share returns how full e's bucket is, up to 1.
func (s *shard) share(e *entry, now time.Time) float64 {
	if s.limits.Rate == 0 {
		return 1
	}
	return e.limiter.TokensAt(now) / float64(e.limiter.Burst())
}

// standing reports whether dropping e would lose no state, and the least time for which its client would be refused. Requests in flight
// count as an hour; their end calls lookAgain.
func (s *shard) standing(e *entry, now time.Time) (full bool, owes time.Duration) {
	if e.inFlight > 0 {
		return false, time.Hour
	}
	full, owes = true, max(e.heldUntil-now.Sub(s.epoch), 0)
	if s.limits.Rate > 0 {
		tokens := e.limiter.TokensAt(now)
		full = tokens >= float64(s.limits.Burst*e.key.Multiple())
		if tokens < 1 {
			owes = max(owes, s.untilOne(e, now), 1)
		}
	}
	return full && owes == 0, owes
}

const (
	// maxLooks bounds the number of entries that are looked at to make room for one.
	maxLooks = 256
	// enoughLooks is the number of entries after which the first droppable one is taken, although a full bucket would be better.
	enoughLooks = 8
)

// room returns a free slot, evicting an entry if necessary, or -1 if none may be evicted.
func (s *shard) room(now time.Time) int {
	if last := len(s.free) - 1; last >= 0 {
		slot := s.free[last]
		s.free = s.free[:last]
		return int(slot)
	}
	if s.slots < s.max {
		if s.slots == len(s.slabs)*len(slab{}) {
			s.slabs = append(s.slabs, new(slab))
		}
		s.slots++
		return s.slots - 1
	}
	if now.Before(s.allOwe) {
		return -1
	}
	found, second := -1, -1
	for looks := range min(s.slots, maxLooks) {
		if found >= 0 && looks >= enoughLooks {
			break
		}
		slot := s.hand
		s.hand = (s.hand + 1) % s.slots
		e := s.at(slot)
		full, owes := s.standing(e, now)
		if full {
			return s.drop(slot)
		}
		if owes > 0 {
			if free := now.Add(owes); s.owing == 0 || free.Before(s.earliest) {
				s.earliest = free
			}
			s.owing++
			continue
		}
		s.owing = 0
		switch {
		case !e.recent && found < 0:
			found = slot
		case e.recent && second < 0:
			second = slot
		}
		e.recent = false
	}
	if found < 0 {
		found = second
	}
	if found >= 0 {
		return s.drop(found)
	}
	if s.owing >= s.slots {
		s.allOwe, s.owing = s.earliest, 0
	}
	return -1
}

// drop evicts the entry in slot.
func (s *shard) drop(slot int) int {
	delete(s.index, s.at(slot).key)
	s.evictions.Add(1)
	s.owing = 0
	return slot
}

// forget resets e to a full bucket, which the next sweep drops.
func (s *shard) forget(e *entry, now time.Time) {
	e.heldUntil, e.requests, e.refused = 0, 0, 0
	s.fill(e, 1, now)
	s.lookAgain()
}

// lookAgain makes room look at all entries again, because one may have stopped owing.
func (s *shard) lookAgain() { s.allOwe, s.owing = time.Time{}, 0 }

// release ends the holds of all entries.
func (s *shard) release() {
	s.each(func(_ int, e *entry) { e.heldUntil = 0 })
	s.lookAgain()
}

// configure applies other limits to all entries.
func (s *shard) configure(limits Limits, now time.Time) {
	before := s.limits
	s.each(func(_ int, e *entry) {
		s.limits = before
		share := s.share(e, now)
		s.limits = limits
		s.fill(e, share, now)
	})
	s.limits = limits
	s.lookAgain()
}

// sweep drops full buckets, halves the counts of the others, and frees memory.
func (s *shard) sweep(now time.Time) {
	s.each(func(slot int, e *entry) {
		if full, _ := s.standing(e, now); full {
			delete(s.index, e.key)
			e.used = false
			s.free = append(s.free, int32(slot))
			return
		}
		e.requests, e.refused = e.requests/2, e.refused/2
	})
	s.lookAgain()
	if s.slots > len(slab{}) && len(s.index) < s.slots/4 {
		s.shrink(now)
	}
}

// shrink moves the remaining entries to as little memory as they need: neither maps nor slices shrink by themselves.
func (s *shard) shrink(now time.Time) {
	old := shard{slabs: s.slabs, slots: s.slots}
	s.slabs, s.slots, s.free, s.hand = nil, 0, nil, 0
	s.index = make(map[Key]*entry, len(s.index))
	old.each(func(_ int, e *entry) { s.take(s.room(now), e, s.share(e, now), now) })
}
