package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// decision is what became of a request, as metrics name it.
type decision int

const (
	allowed decision = iota
	refused
	exempt
	dryRun // would have been refused
	decisions
)

func (d decision) String() string {
	return [...]string{"allowed", "refused", "exempt", "dry_run"}[d]
}

// zone is a set of buckets and what is counted of it. It outlives configs.
type zone struct {
	name        string
	table       *bucket.Table
	decisions   [decisions]atomic.Uint64
	storeErrors atomic.Uint64 // decisions that the shared store did not make

	lastLine atomic.Int64  // when a dry run was logged last, in nanoseconds since 1970
	unlogged atomic.Uint64 // dry runs since
}

func (z *zone) count(d decision) { z.decisions[d].Add(1) }

// mayLog reports whether it is time for another line in the log, and how many there would have been since the last.
func (z *zone) mayLog(now time.Time) (uint64, bool) {
	const pause = time.Second
	z.unlogged.Add(1)
	last := z.lastLine.Load()
	if since := now.UnixNano() - last; since >= 0 && since < int64(pause) || !z.lastLine.CompareAndSwap(last, now.UnixNano()) {
		return 0, false
	}
	return z.unlogged.Swap(0), true
}

// shared holds what configs share by name. What nobody has any more is gone.
type shared[T any] struct {
	mu  sync.Mutex
	all map[string]*sharedItem[T]
}

type sharedItem[T any] struct {
	value T
	users int
}

// acquire returns what has that name, which makes if there is nothing of it.
func (s *shared[T]) acquire(name string, makeOne func() (T, error)) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := s.all[name]
	if item == nil {
		value, err := makeOne()
		if err != nil {
			return value, err
		}
		item = &sharedItem[T]{value: value}
		if s.all == nil {
			s.all = make(map[string]*sharedItem[T])
		}
		s.all[name] = item
	}
	item.users++
	return item.value, nil
}

// release gives up what acquire returned. It returns true, and the value, to the last who does.
func (s *shared[T]) release(name string) (value T, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := s.all[name]
	if item == nil {
		return value, false
	}
	if item.users--; item.users > 0 {
		return value, false
	}
	delete(s.all, name)
	return item.value, true
}

// zones and stores outlive configs.
var (
	zones  shared[*zone]
	stores shared[*store]
)
