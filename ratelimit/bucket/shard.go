package bucket

import (
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// entry is what is known of a key. It is 144 bytes large: a field more is 16 bytes more for each client.
type entry struct {
	limiter   rate.Limiter  // guarded by the shard's lock; its own is free at all times
	heldUntil time.Duration // since the shard's epoch
	requests  uint32        // asked for, of late: halved by each sweep
	refused   uint32        // of them
	inFlight  int32
	key       Key
	text      [maxText]byte // of a TextKey
	textLen   uint8         // 0 if the text is not kept
	recent    bool          // used since the hand passed
}

// maxText is how long a text may be to be kept. Longer ones are often credentials, which nobody should read here.
const maxText = 16

// shard is a part of a table.
type shard struct {
	mu        sync.Mutex // guards all fields
	limits    Limits
	last      time.Time // the latest that was seen
	epoch     time.Time // of entry.heldUntil
	index     map[Key]*entry
	entries   []*entry // those of index, in a ring
	hand      int      // of the clock: where to look next for one to drop
	max       int      // entries
	most      int      // entries since index was made
	evictions *atomic.Uint64

	// While all owe, nobody need be looked at.
	allOwe   time.Time // until when no entry may be dropped, unless it is forgotten or a request ends
	owing    int       // entries that owe which the hand has passed in a row
	earliest time.Time // when the first of them owes nothing any more

	_ [64]byte // neighbours do not share a cache line
}

// find returns the entry of k, a new one if need be, nil if there is no room.
func (s *shard) find(k Key, text string, now time.Time) *entry {
	if e := s.index[k]; e != nil {
		e.recent = true
		return e
	}
	slot := s.room(now)
	if slot < 0 {
		return nil
	}
	e := &entry{key: k}
	if len(text) <= maxText && utf8.ValidString(text) {
		e.textLen = uint8(copy(e.text[:], text))
	}
	s.fill(e, 1, now)
	s.put(slot, e)
	return e
}

// only returns the entry of a shard of one.
func (s *shard) only(now time.Time) *entry {
	if len(s.entries) == 0 {
		e := new(entry)
		s.fill(e, 1, now)
		s.entries = append(s.entries, e)
	}
	return s.entries[0]
}

// admit charges a request to e, or tells why not, and when it may be worth another try.
func (s *shard) admit(e *entry, now time.Time) (Cause, time.Duration) {
	e.requests++
	multiple := e.key.Multiple()
	if held := e.heldUntil - now.Sub(s.epoch); e.heldUntil > 0 && held > 0 {
		e.refused++
		return Rate, held
	}
	if most := s.limits.Concurrency * multiple; most > 0 && int(e.inFlight) >= most {
		e.refused++
		return Concurrency, time.Second
	}
	if s.limits.Rate > 0 && !e.limiter.AllowN(now, 1) {
		e.refused++
		return Rate, s.untilOne(e, now)
	}
	return 0, 0
}

// untilOne is the time until e holds a token.
func (s *shard) untilOne(e *entry, now time.Time) time.Duration {
	missing := 1 - e.limiter.TokensAt(now)
	return time.Duration(missing / float64(e.limiter.Limit()) * float64(time.Second))
}

// fill sets e's bucket up with the shard's limits and that share of its tokens. A limiter begins empty, at a time of ours.
func (s *shard) fill(e *entry, share float64, now time.Time) {
	e.limiter = rate.Limiter{}
	if s.limits.Rate == 0 {
		return
	}
	limit, burst := s.limits.Rate*rate.Limit(e.key.Multiple()), s.limits.Burst*e.key.Multiple()
	took := time.Duration(share * float64(burst) / float64(limit) * float64(time.Second))
	if share >= 1 {
		took += time.Second // no token is missing for being rounded
	}
	e.limiter.SetLimitAt(now.Add(-took), limit)
	e.limiter.SetBurstAt(now.Add(-took), burst)
}

// share is how full e's bucket is, up to 1.
func (s *shard) share(e *entry, now time.Time) float64 {
	if s.limits.Rate == 0 {
		return 1
	}
	return e.limiter.TokensAt(now) / float64(e.limiter.Burst())
}

// standing tells whether nothing is lost with e, and for how long at least its owner would be refused. Requests in flight
// count as an hour: their end is noticed.
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
	// maxLooks bounds how many entries are looked at to make room for one.
	maxLooks = 256
	// enoughLooks is after how many the first that will do is taken, though a full bucket would be better.
	enoughLooks = 8
)

// worthShrinking is how many entries a shard must have had to be made smaller.
const worthShrinking = 64

// room returns where in entries one more can be put, -1 if there is no room and nobody may be dropped.
func (s *shard) room(now time.Time) int {
	if len(s.entries) < s.max {
		s.entries = append(s.entries, nil)
		return len(s.entries) - 1
	}
	if now.Before(s.allOwe) {
		return -1
	}
	found, second := -1, -1
	for looks := range min(len(s.entries), maxLooks) {
		if found >= 0 && looks >= enoughLooks {
			break
		}
		i := s.hand
		s.hand = (s.hand + 1) % len(s.entries)
		e := s.entries[i]
		full, owes := s.standing(e, now)
		if full {
			return s.drop(i)
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
			found = i
		case e.recent && second < 0:
			second = i
		}
		e.recent = false
	}
	if found < 0 {
		found = second
	}
	if found >= 0 {
		return s.drop(found)
	}
	if s.owing >= len(s.entries) {
		s.allOwe, s.owing = s.earliest, 0
	}
	return -1
}

// drop frees a place in entries.
func (s *shard) drop(slot int) int {
	delete(s.index, s.entries[slot].key)
	s.evictions.Add(1)
	s.owing = 0
	return slot
}

func (s *shard) put(slot int, e *entry) {
	s.entries[slot] = e
	s.index[e.key] = e
	s.most = max(s.most, len(s.entries))
}

// forget makes e as good as new: a full bucket, which the next sweep drops.
func (s *shard) forget(e *entry, now time.Time) {
	e.heldUntil, e.requests, e.refused = 0, 0, 0
	s.fill(e, 1, now)
	s.allOwe, s.owing = time.Time{}, 0
}

// configure gives all entries other limits.
func (s *shard) configure(limits Limits, now time.Time) {
	shares := make([]float64, len(s.entries))
	for i, e := range s.entries {
		shares[i] = s.share(e, now)
	}
	s.limits = limits
	for i, e := range s.entries {
		s.fill(e, shares[i], now)
	}
	s.allOwe, s.owing = time.Time{}, 0
}

// sweep drops what is full, halves the counts of the others, and gives memory back.
func (s *shard) sweep(now time.Time) {
	kept := s.entries[:0]
	for _, e := range s.entries {
		if full, _ := s.standing(e, now); full {
			delete(s.index, e.key)
			continue
		}
		e.requests, e.refused = e.requests/2, e.refused/2
		kept = append(kept, e)
	}
	clear(s.entries[len(kept):])
	s.entries = kept
	s.hand, s.owing, s.allOwe = 0, 0, time.Time{}
	if s.most > worthShrinking && len(kept) < s.most/4 {
		// Neither maps nor slices shrink by themselves.
		index := make(map[Key]*entry, len(kept))
		for _, e := range kept {
			index[e.key] = e
		}
		s.index, s.entries, s.most = index, append([]*entry(nil), kept...), len(kept)
	}
}
