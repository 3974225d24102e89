package redisstore

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// guard decides whether the server may be asked. The results of all pipelines are reported to it, and while the server is not asked, those
// of the probes.
type guard struct {
	down   atomic.Bool
	failed chan struct{} // has an element after down was set

	mu      sync.Mutex
	history uint32 // results of the last pipelines, the latest in the lowest bit: 1 for a failure
	err     error  // the last failure
}

const (
	maxInARow = 3         // failures in a row
	window    = 1<<20 - 1 // mask for the last 20 pipelines
	maxOfLast = 10        // allowed failures among them
)

// report records how a pipeline ended.
func (g *guard) report(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.history <<= 1
	if err == nil {
		return
	}
	g.history |= 1
	g.err = err
	if bits.TrailingZeros32(^g.history) >= maxInARow || bits.OnesCount32(g.history&window) >= maxOfLast {
		g.turnDown()
	}
}

// turnDown marks the server as unavailable. The caller holds g.mu.
func (g *guard) turnDown() {
	if g.down.Swap(true) {
		return
	}
	select {
	case g.failed <- struct{}{}:
	default:
	}
}

func (g *guard) reason() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Pauses between probes, with a jitter of 10%. They double if the server fails again soon after it was back.
const (
	minPause = 500 * time.Millisecond
	maxPause = 4 * time.Second
	steady   = 30 * time.Second // a server that was available for longer starts again with minPause
)

// watch probes the server at the start, so that an unavailable server is known before the first request, and repeatedly while the server is
// not asked.
func (s *Store) watch() {
	if err := s.probe(); err != nil && s.closed.Err() == nil {
		s.guard.mu.Lock()
		s.guard.err = err
		s.guard.turnDown()
		s.guard.mu.Unlock()
	}
	pause, back := minPause, time.Now()
	for {
		select {
		case <-s.closed.Done():
			return
		case <-s.guard.failed:
		}
		s.options.Changed(s.told(s.guard.reason()))
		if time.Since(back) > steady {
			pause = minPause
		}
		for {
			select {
			case <-s.closed.Done():
				return
			case <-time.After(time.Duration(float64(pause) * (0.9 + 0.2*rand.Float64()))):
			}
			if s.probe() == nil {
				break
			}
		}
		pause, back = min(2*pause, maxPause), time.Now()
		s.guard.mu.Lock()
		s.guard.history = 0
		s.guard.down.Store(false)
		s.guard.mu.Unlock()
		s.options.Changed(nil)
	}
}

// probe does what a request does: it takes a token, within the timeout of a decision. Only connecting may take longer.
func (s *Store) probe() error {
	connect, cancel := context.WithTimeout(s.closed, dialTimeout)
	defer cancel()
	if err := s.client.Ping(connect).Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.closed, s.options.Timeout)
	defer cancel()
	return takeScript.Run(ctx, s.client, []string{"ballast:probe"}, 1, 1000, 1000).Err()
}
