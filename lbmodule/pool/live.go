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

// ErrDrained ends the requests of a backend whose time to drain is over.
var ErrDrained = errors.New("backend has been drained for as long as drain_timeout allows")

// liveShards is in how many parts live requests are kept, so that few who come and go meet at a lock.
const liveShards = 16

// Live are the requests that a pool is serving. The zero Live has none. Its methods may be called by several goroutines at a time.
type Live struct {
	shards [liveShards]liveShard
}

type liveShard struct {
	mu    sync.Mutex // guards what follows, and the fields of the requests in it
	first *LiveRequest
	_     [48]byte // the next one is on another cache line
}

// LiveRequest is what is known of a request on its way. The zero LiveRequest is of one that has not been added: nothing that is noted
// of it is kept.
type LiveRequest struct {
	shard      *liveShard
	prev, next *LiveRequest

	started time.Time
	address string                  // of the backend it is at; "" before there is one
	copy    string                  // of the backend that a copy of it is at; "" without one
	endCopy context.CancelCauseFunc // ends the copy
	tried   []string                // addresses of those it has been at before
	end     context.CancelCauseFunc // ends it; nil if nobody ever will
}

// Add notes a request that has begun. end ends it, if that may be wanted.
func (l *Live) Add(r *LiveRequest, end context.CancelCauseFunc) {
	r.shard, r.started, r.end = &l.shards[rand.IntN(liveShards)], time.Now(), end
	s := r.shard
	s.mu.Lock()
	if r.next = s.first; r.next != nil {
		r.next.prev = r
	}
	s.first = r
	s.mu.Unlock()
}

// Started is when the request was added, zero if it never was.
func (r *LiveRequest) Started() time.Time { return r.started }

// At notes the backend of its next attempt.
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

// Copied notes the backend that a copy of it is sent to, and what ends the copy; "" when there is none any more.
func (r *LiveRequest) Copied(address string, end context.CancelCauseFunc) {
	if r.shard == nil {
		return
	}
	r.shard.mu.Lock()
	r.copy, r.endCopy = address, end
	r.shard.mu.Unlock()
}

// Done takes the request away. One that was never added may be done, too.
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
	s.mu.Unlock()
	r.shard, r.prev, r.next = nil, nil, nil
}

// each calls f for all requests. f must not keep r, nor call back.
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

// EndAt ends the requests, and the copies of requests, that are at the backend with that address: their cause is [ErrDrained]. It
// returns how many it has ended.
func (l *Live) EndAt(address string) int {
	var open []context.CancelCauseFunc
	l.each(func(r *LiveRequest) {
		if r.address == address && r.end != nil {
			open = append(open, r.end)
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

// LiveView is a request as it was at one moment.
type LiveView struct {
	ID       string // for as long as the request lives
	Since    time.Time
	Attempts int      // that it has made, with the one that it is at
	Address  string   // of the backend that it is at, "" before there is one
	Tried    []string // addresses of those that it has been at before
}

// id names the request for as long as it lives.
func (r *LiveRequest) id() string {
	return strconv.FormatInt(r.started.UnixNano(), 36)
}

// List returns the requests that have been there for longest, at most n, and with an id only that one.
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
