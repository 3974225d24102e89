package bucket

import (
	"cmp"
	"container/heap"
	"time"

	"golang.org/x/time/rate"
)

// Usage is what a key has used.
type Usage struct {
	Key      Key
	Name     string  // the key's text if it has one and it was kept, else Key.String
	Tokens   float64 // left
	Limits   Limits  // of this key
	InFlight int     // counted only where concurrency is limited
	Requests int     // recent requests: halved by each sweep
	Refused  int     // refused ones among them
}

func (s *shard) usage(e *entry, now time.Time) Usage {
	m := e.key.Multiple()
	u := Usage{
		Key: e.key, Name: string(e.text[:e.textLen]),
		Limits:   Limits{Rate: s.limits.Rate * rate.Limit(m), Burst: s.limits.Burst * m, Concurrency: s.limits.Concurrency * m},
		InFlight: int(e.inFlight), Requests: int(e.requests), Refused: int(e.refused),
	}
	if u.Name == "" {
		u.Name = e.key.String()
	}
	if s.limits.Rate > 0 && e.heldUntil <= now.Sub(s.epoch) {
		u.Tokens = e.limiter.TokensAt(now)
	}
	return u
}

// Keys returns the number of keys in the table.
func (t *Table) Keys() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	t.eachShard(func(s *shard, _ time.Time) { n += len(s.index) })
	return n
}

// Evictions returns the number of keys that were dropped to make room for others.
func (t *Table) Evictions() uint64 { return t.evictions.Load() }

// Busiest returns the n keys with the most recent requests, the busiest first.
func (t *Table) Busiest(n int) []Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best usages
	t.eachShard(func(s *shard, now time.Time) {
		s.each(func(_ int, e *entry) {
			if len(best) == n && (n == 0 || int(e.requests) <= best[0].Requests) {
				return
			}
			if len(best) == n {
				heap.Pop(&best)
			}
			heap.Push(&best, s.usage(e, now))
		})
	})
	sorted := make([]Usage, len(best))
	for i := len(sorted) - 1; i >= 0; i-- {
		sorted[i] = heap.Pop(&best).(Usage)
	}
	return sorted
}

// Look returns what k has used. It reports false if the table has no entry for k, which then has all its tokens.
func (t *Table) Look(k Key) (Usage, bool) {
	s := t.lock(k)
	defer s.mu.Unlock()
	e := s.index[k]
	if e == nil {
		return Usage{}, false
	}
	return s.usage(e, t.time(s)), true
}

// Forget gives k all its tokens back. It reports whether the table had an entry for k.
func (t *Table) Forget(k Key) bool {
	s := t.lock(k)
	defer s.mu.Unlock()
	e := s.index[k]
	if e != nil {
		s.forget(e, t.time(s))
	}
	return e != nil
}

// ForgetAll gives all keys their tokens back, and returns how many there were.
func (t *Table) ForgetAll() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	t.eachShard(func(s *shard, now time.Time) {
		n += len(s.index)
		s.each(func(_ int, e *entry) { s.forget(e, now) })
	})
	t.overflow.mu.Lock()
	defer t.overflow.mu.Unlock()
	t.overflow.forget(t.overflow.only(t.time(&t.overflow)), t.overflow.last)
	return n
}

// usages is a heap with the least busy on top.
type usages []Usage

func (u usages) Len() int { return len(u) }
func (u usages) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(u[i].Requests, u[j].Requests), cmp.Compare(u[j].Name, u[i].Name)) < 0
}
func (u usages) Swap(i, j int) { u[i], u[j] = u[j], u[i] }
func (u *usages) Push(x any)   { *u = append(*u, x.(Usage)) }
func (u *usages) Pop() any {
	last := len(*u) - 1
	x := (*u)[last]
	*u = (*u)[:last]
	return x
}
