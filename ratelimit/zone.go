package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// decision is the outcome of a request, as metrics name it.
type decision int

const (
	allowed decision = iota
	refused
	exempt
	dryRun // allowed, but would have been refused without dry_run
	decisions
)

func (d decision) String() string {
	return [...]string{"allowed", "refused", "exempt", "dry_run"}[d]
}

// zone is a set of buckets and their counters. It outlives configs.
type zone struct {
	name        string
	table       *bucket.Table
	decisions   [decisions]atomic.Uint64
	storeErrors atomic.Uint64 // decisions that the shared store did not make

	lastLine atomic.Int64  // when a dry run was last logged, in nanoseconds since 1970
	unlogged atomic.Uint64 // dry runs since
}

func (z *zone) count(d decision) { z.decisions[d].Add(1) }

// mayLog reports whether it is time to log again, and how many events were not logged since the last line.
func (z *zone) mayLog(now time.Time) (uint64, bool) {
	const pause = time.Second
	z.unlogged.Add(1)
	last := z.lastLine.Load()
	if since := now.UnixNano() - last; since >= 0 && since < int64(pause) || !z.lastLine.CompareAndSwap(last, now.UnixNano()) {
		return 0, false
	}
	return z.unlogged.Swap(0), true
}

// shared holds values that configs share by name. A value without users is removed.
type shared[T any] struct {
	mu  sync.Mutex
	all map[string]*sharedItem[T]
}

type sharedItem[T any] struct {
	value T
	users int
}

// acquire returns the value with that name, and calls makeOne if there is none.
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

// release gives up a value that acquire returned. To the last user it returns true and the value.
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
