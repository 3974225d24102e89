package pool

import (
	"sync"
	"time"
)

// Stream is the connection of a request that has switched protocols. It lasts as long as its two ends want, even if its config ends before.
type Stream interface {
	// End ends the stream after that time, unless an earlier End does so before. It does not wait, and does not call methods of the pool.
	End(after time.Duration)
}

// streams counts the streams of a pool by backend, and ends those of backends that the pool no longer has. The zero streams is empty.
type streams struct {
	mu   sync.Mutex // guards the fields below
	over bool       // all streams must end, including new ones
	at   map[string]*streamsAt
}

// streamsAt describes the streams at one address.
type streamsAt struct {
	open  int
	since time.Time   // when the pool lost the backend; zero if it has it
	drain *time.Timer // ends the streams; nil if nothing does
}

// stay keeps the streams from being ended.
func (a *streamsAt) stay() {
	a.since = time.Time{}
	if a.drain != nil {
		a.drain.Stop()
		a.drain = nil
	}
}

// openStream describes the stream of a request.
type openStream struct {
	Stream
	owner any
	pool  *Pool
	kept  bool // the stream keeps the pool in its registry
}

// OpenStream records that a request has become a stream, until [LiveRequest.Done]. The stream keeps the pool in use, so that its slot is
// still counted if the pool is dropped and comes back. owner stands for the load balancer that opened it, see [Pool.EndStreamsOf].
func (p *Pool) OpenStream(r *LiveRequest, s Stream, owner any) {
	shard := r.shard
	if shard == nil {
		return
	}
	open := &openStream{Stream: s, owner: owner, pool: p, kept: p.registry.keep(p)}
	shard.mu.Lock()
	r.stream = open
	address, over := r.address, r.drained
	shard.mu.Unlock()
	l := &p.streams
	l.mu.Lock()
	at := l.at[address]
	if at == nil {
		if l.at == nil {
			l.at = make(map[string]*streamsAt)
		}
		at = new(streamsAt)
		l.at[address] = at
	}
	at.open++
	over = over || l.over
	l.mu.Unlock()
	if over {
		s.End(0)
	}
}

// done removes a stream that was at this address.
func (s *openStream) done(address string) {
	l := &s.pool.streams
	l.mu.Lock()
	at := l.at[address]
	if at.open--; at.open == 0 {
		at.stay()
		delete(l.at, address)
	}
	l.mu.Unlock()
	if s.kept {
		s.pool.registry.Release(s.pool)
	}
}

// SettleStreams is called when another config has come into force. Streams to backends that the pool does not have any more end after drain,
// counted from when it lost them; if drain is 0, they stay.
func (p *Pool) SettleStreams(has func(address string) bool, drain time.Duration, now time.Time) {
	l := &p.streams
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, at := range l.at {
		since := at.since
		at.stay()
		if has(address) {
			continue
		}
		if since.IsZero() {
			since = now
		}
		if at.since = since; drain > 0 {
			at.drain = time.AfterFunc(since.Add(drain).Sub(now), func() { p.Live.endStreams(func(_ *openStream, is string) bool { return is == address }, 0) })
		}
	}
}

// KeepStreams keeps the streams to backends that the pool has again from being ended. Unlike [Pool.SettleStreams], it ends none.
func (p *Pool) KeepStreams(has func(address string) bool) {
	l := &p.streams
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, at := range l.at {
		if !at.since.IsZero() && has(address) {
			at.stay()
		}
	}
}

// EndStreamsOf ends the streams of one load balancer after that time.
func (p *Pool) EndStreamsOf(owner any, after time.Duration) {
	p.Live.endStreams(func(s *openStream, _ string) bool { return s.owner == owner }, after)
}

// openStreams returns the number of streams.
func (p *Pool) openStreams() (n int) {
	l := &p.streams
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.at {
		n += at.open
	}
	return n
}

// endAllStreams ends all streams, and those that begin later.
func (p *Pool) endAllStreams() {
	l := &p.streams
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	p.Live.endStreams(func(*openStream, string) bool { return true }, 0)
}

// endStreams ends those streams after that time. Each is given with its backend's address.
func (l *Live) endStreams(those func(s *openStream, address string) bool, after time.Duration) {
	var ending []Stream
	l.each(func(r *LiveRequest) {
		if r.stream != nil && those(r.stream, r.address) {
			ending = append(ending, r.stream)
		}
	})
	for _, s := range ending {
		s.End(after)
	}
}

// EndStreams ends all streams of the pools in use, and those that begin later.
func (r *Registry) EndStreams() {
	for _, p := range r.all() {
		p.endAllStreams()
	}
}

// Streams returns the number of streams of the pools in use.
func (r *Registry) Streams() (n int) {
	for _, p := range r.all() {
		n += p.openStreams()
	}
	return n
}

// all returns the pools in use.
func (r *Registry) all() []*Pool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Pool, 0, len(r.pools))
	for _, e := range r.pools {
		all = append(all, e.pool)
	}
	return all
}

// keep keeps a pool in use until one more Release, and reports whether it does: another pool may have got its name.
func (r *Registry) keep(p *Pool) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pools[p.name]
	if e == nil {
		e = &registered{pool: p}
		r.pools[p.name] = e
	}
	if e.pool != p {
		return false
	}
	e.refs++
	return true
}
