package pool

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

// ErrDrained is the cause with which requests of a backend end when its drain timeout has passed.
var ErrDrained = errors.New("backend has been drained for as long as drain_timeout allows")

// liveShards is the number of shards of the live requests. It keeps lock contention low.
const liveShards = 16

// Live holds the requests that a pool is serving. The zero Live is empty. It is safe for concurrent use.
type Live struct {
	shards [liveShards]liveShard
}

type liveShard struct {
	mu    sync.Mutex // guards the fields below, and the fields of the requests in it
	first *LiveRequest
	_     [48]byte // puts the next shard on another cache line
}

// Mover is a request that may be sent to another backend while it waits for an answer.
type Mover interface {
	// MoveAway takes the request from its backend, which no longer answers, if the request still waits for an answer and may be sent to
	// another backend. It reports whether it did so. It must neither block nor use the Live.
	MoveAway(now time.Time) bool
}

// LiveRequest describes a request that is being served. The zero LiveRequest has not been added to a Live, and its methods record
// nothing.
type LiveRequest struct {
	Mover Mover // nil if the request cannot be moved; it must be set before the request is added

	shard      *liveShard
	prev, next *LiveRequest

	started time.Time
	address string                  // of the current backend; "" before there is one
	copy    string                  // address of the copy's backend; "" without a copy
	endCopy context.CancelCauseFunc // ends the copy
	tried   []string                // addresses of the backends tried before
	end     context.CancelCauseFunc // ends the request; nil if it cannot be ended
	stream  *openStream             // nil unless it has become a stream
	drained bool                    // the request must end as soon as it can be ended
}

// Add adds a request that has begun at that time. end ends the request, and may be nil.
func (l *Live) Add(r *LiveRequest, end context.CancelCauseFunc, now time.Time) {
	r.shard, r.started, r.end = &l.shards[rand.IntN(liveShards)], now, end
	s := r.shard
	s.mu.Lock()
	if r.next = s.first; r.next != nil {
		r.next.prev = r
	}
	s.first = r
	s.mu.Unlock()
}

// Started returns when the request was added, zero if it never was.
func (r *LiveRequest) Started() time.Time { return r.started }

// At records the backend of the next attempt.
func (r *LiveRequest) At(address string) {
	if r.shard == nil {
		return
	}
	r.shard.mu.Lock()
	if r.address != "" {
		r.tried = append(r.tried, r.address)
	}
	r.address = address
	r.shard.mu.Unlock()
}

// Copied records the backend of a copy, and the function that ends the copy; "" when the copy has ended.
func (r *LiveRequest) Copied(address string, end context.CancelCauseFunc) {
	if r.shard == nil {
		return
	}
	r.shard.mu.Lock()
	r.copy, r.endCopy = address, end
	r.shard.mu.Unlock()
}

// Done removes the request, if it was added.
func (r *LiveRequest) Done() {
	s := r.shard
	if s == nil {
		return
	}
	s.mu.Lock()
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	stream, address := r.stream, r.address
	s.mu.Unlock()
	r.shard, r.prev, r.next, r.stream = nil, nil, nil, nil
	if stream != nil {
		stream.done(address)
	}
}

// each calls f for all requests. f must neither keep r nor call methods of Live.
func (l *Live) each(f func(r *LiveRequest)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for r := s.first; r != nil; r = r.next {
			f(r)
		}
		s.mu.Unlock()
	}
}

// EndAt ends the requests, copies and streams at the backend with this address, the requests and copies with the cause [ErrDrained]. It
// returns their number.
func (l *Live) EndAt(address string) int {
	var open []context.CancelCauseFunc
	l.each(func(r *LiveRequest) {
		switch {
		case r.address != address:
		case r.stream != nil:
			stream := r.stream
			open = append(open, func(error) { stream.End(0) })
		case r.end != nil:
			open = append(open, r.end)
		default:
			r.drained = true
		}
		if r.copy == address && r.endCopy != nil {
			open = append(open, r.endCopy)
		}
	})
	for _, end := range open {
		end(ErrDrained)
	}
	return len(open)
}

// MoveFrom moves away the requests that wait for an answer of the backend with this address, as far as they can be moved.
func (l *Live) MoveFrom(address string, now time.Time) {
	l.each(func(r *LiveRequest) {
		if r.Mover != nil && r.address == address {
			r.Mover.MoveAway(now)
		}
	})
}

// Settle waits until no [Live.MoveFrom] is handling the request.
func (r *LiveRequest) Settle() {
	if s := r.shard; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
}

// LiveView is a request as it was at one moment.
type LiveView struct {
	ID       string // unique while the request lives
	Since    time.Time
	Attempts int      // with the current one
	Address  string   // of the current backend, "" before there is one
	Tried    []string // addresses of the backends tried before
}

// id returns the request's ID.
func (r *LiveRequest) id() string {
	return strconv.FormatInt(r.started.UnixNano(), 36)
}

// List returns the n oldest requests or, with an id, only the request with that id.
func (l *Live) List(n int, id string) []LiveView {
	all := []LiveView{}
	l.each(func(r *LiveRequest) {
		if id != "" && r.id() != id {
			return
		}
		all = append(all, LiveView{
			ID: r.id(), Since: r.started.UTC(), Attempts: len(r.tried) + min(len(r.address), 1), Address: r.address, Tried: slices.Clone(r.tried),
		})
	})
	slices.SortFunc(all, func(a, b LiveView) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return all[:min(n, len(all))]
}
