package lbmodule

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

// errDrained ends the requests of a backend whose time to drain is over.
var errDrained = errors.New("backend has been drained for as long as drain_timeout allows")

// liveShards is in how many parts live requests are kept, so that few who come and go meet at a lock.
const liveShards = 16

// liveRequests are the requests that a pool is serving. The zero liveRequests has none.
type liveRequests struct {
	shards [liveShards]liveShard
}

type liveShard struct {
	mu    sync.Mutex // guards what follows, and the fields of the requests in it
	first *liveRequest
	_     [48]byte // the next one is on another cache line
}

// liveRequest is what is known of a request on its way.
type liveRequest struct {
	shard      *liveShard
	prev, next *liveRequest

	started time.Time
	address string                  // of the backend it is at; "" before there is one
	copy    string                  // of the backend that a copy of it is at; "" without one
	endCopy context.CancelCauseFunc // ends the copy
	tried   []string                // addresses of those it has been at before
	end     context.CancelCauseFunc // ends it; nil if nobody ever will
}

// add notes a request that has begun. end ends it, if that may be wanted.
func (l *liveRequests) add(r *liveRequest, end context.CancelCauseFunc) {
	r.shard, r.started, r.end = &l.shards[rand.IntN(liveShards)], time.Now(), end
	s := r.shard
	s.mu.Lock()
	if r.next = s.first; r.next != nil {
		r.next.prev = r
	}
	s.first = r
	s.mu.Unlock()
}

// at notes the backend of its next attempt.
func (r *liveRequest) at(address string) {
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

// copied notes the backend that a copy of it is sent to, and what ends the copy; "" when there is none any more.
func (r *liveRequest) copied(address string, end context.CancelCauseFunc) {
	if r.shard == nil {
		return
	}
	r.shard.mu.Lock()
	r.copy, r.endCopy = address, end
	r.shard.mu.Unlock()
}

// done takes the request away. One that was never added may be done, too.
func (r *liveRequest) done() {
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
func (l *liveRequests) each(f func(r *liveRequest)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for r := s.first; r != nil; r = r.next {
			f(r)
		}
		s.mu.Unlock()
	}
}

// closeAll ends the requests at the backend with that address.
func (l *liveRequests) closeAll(address string) {
	var open []context.CancelCauseFunc
	l.each(func(r *liveRequest) {
		if r.address == address && r.end != nil {
			open = append(open, r.end)
		}
		if r.copy == address && r.endCopy != nil {
			open = append(open, r.endCopy)
		}
	})
	for _, end := range open {
		end(errDrained)
	}
}

// liveView is a request as it is shown.
type liveView struct {
	ID       string    `json:"id"`
	Backend  string    `json:"backend"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`

	address string
	tried   []string
}

// id names the request for as long as it lives.
func (r *liveRequest) id() string {
	return strconv.FormatInt(r.started.UnixNano(), 36)
}

// list returns the requests that have been there for longest, at most n, and with an id only that one.
func (l *liveRequests) list(n int, id string, name func(address string) string) []liveView {
	all := []liveView{}
	l.each(func(r *liveRequest) {
		if id != "" && r.id() != id {
			return
		}
		all = append(all, liveView{
			ID: r.id(), Since: r.started.UTC(), Attempts: len(r.tried) + min(len(r.address), 1), address: r.address, tried: slices.Clone(r.tried),
		})
	})
	slices.SortFunc(all, func(a, b liveView) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	all = all[:min(n, len(all))]
	for i := range all {
		if all[i].Backend = all[i].address; all[i].address != "" {
			all[i].Backend = name(all[i].address)
		}
	}
	return all
}
