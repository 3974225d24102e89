package redisstore

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// guard decides whether the server is worth asking. It hears of each pipeline, and of the probes that are made while the
// server is not asked.
type guard struct {
	down   atomic.Bool
	failed chan struct{} // holds something when down was set

	mu      sync.Mutex
	history uint32 // the last pipelines, the latest lowest: 1 for a failure
	err     error  // the last failure
}

const (
	maxInARow = 3         // failures in a row
	window    = 1<<20 - 1 // of the last 20 pipelines
	maxOfLast = 10        // may have failed
)

// report tells how a pipeline ended.
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

// turnDown has the server not be asked any more. g.mu is held.
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

// How long to wait between probes, give or take a tenth: longer and longer if the server fails again as soon as it is back.
const (
	minPause = 500 * time.Millisecond
	maxPause = 4 * time.Second
	steady   = 30 * time.Second // that it must have been available for
)

// watch makes a probe at the beginning, so that a server that is not there is known of before the first request, and again
// and again while the server is not asked.
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

// probe does what a request would: it takes a token, in the time for a decision. Only the connection may take longer.
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
