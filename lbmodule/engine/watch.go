package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// watched is the state by which a connection is closed when the context of its request ends.
type watched struct {
	mu   sync.Mutex // guards the fields below
	ctx  context.Context
	call *Call       // the request that the connection is used for; nil for none
	seen bool        // the watcher has seen the request
	stop func() bool // undoes context.AfterFunc; nil if that was not called yet
	at   int         // index in the watcher's list; the watcher's lock guards it
}

// watch makes the connection close when the context of k ends, until unwatch is called. If k is patient, an end in the first moments of the
// request may be noticed a little late, which is enough when the context ends because the client leaves. Otherwise, and for a context with
// a deadline, watch calls [context.AfterFunc], which costs more. Until unwatch, k can be broken off.
func (c *conn) watch(k *Call) {
	ctx := k.Request.Context()
	k.over.Store(c)
	if _, limited := ctx.Deadline(); !k.Patient || limited || ctx.Err() != nil {
		stop := context.AfterFunc(ctx, c.close)
		c.mu.Lock()
		c.stop, c.call = stop, k
		c.breakOff(k)
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	c.ctx, c.call, c.seen = ctx, k, false
	c.breakOff(k)
	c.mu.Unlock()
	if w := &c.client.watcher; !w.awake.Load() && w.awake.CompareAndSwap(false, true) {
		w.comeBack()
	}
}

// unwatch undoes watch. It returns false if the end of the context has closed the connection, or is about to, or if the request was broken
// off.
func (c *conn) unwatch() bool {
	c.mu.Lock()
	stop, k := c.stop, c.call
	c.ctx, c.stop, c.call = nil, nil, nil
	c.mu.Unlock()
	return (stop == nil || stop()) && (k == nil || !k.off.Load())
}

// errBrokenOff is returned for a request that was broken off.
var errBrokenOff = errors.New("request was broken off")

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// breakOff makes reads fail if k was broken off and c is its connection. The caller holds c.mu.
func (c *conn) breakOff(k *Call) {
	if k.off.Load() && c.call == k {
		_ = c.net.SetReadDeadline(past)
	}
}

// expect makes reads fail after that time, or at once if the request was broken off.
func (c *conn) expect(end time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.call != nil && c.call.off.Load() {
		end = past
	}
	return c.net.SetReadDeadline(end)
}

// Waits reports whether the request has a connection, or has had one.
func (k *Call) Waits() bool { return k.over.Load() != nil }

// BreakOff makes the request fail as soon as it has a connection. It may be called by another goroutine, while the Call is not used for
// another request.
func (k *Call) BreakOff() {
	k.off.Store(true)
	if c := k.over.Load(); c != nil {
		c.mu.Lock()
		c.breakOff(k)
		c.mu.Unlock()
	}
}

// look calls [context.AfterFunc] for a request that the watcher sees for the second time. It reports whether the watcher must come back
// for a request that it has seen for the first time.
func (c *conn) look() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ctx == nil:
		return false
	case !c.seen:
		c.seen = true
		return true
	}
	c.stop, c.ctx = context.AfterFunc(c.ctx, c.close), nil
	return false
}

// watcher calls [context.AfterFunc] for the requests that take longer than a moment. Most take less, so this costs less than a call for
// each. It makes its rounds only while there are requests for which it may have to do that. The zero watcher is asleep.
type watcher struct {
	awake atomic.Bool
	quiet int // rounds without requests so far; used by the round only

	mu    sync.Mutex // guards the fields below
	conns []*conn    // all that are open
}

const (
	// watchEvery is the interval of the watcher's rounds. It acts for a request in the second round that sees it.
	watchEvery = 50 * time.Millisecond

	// quietRounds is the number of rounds without requests after which the watcher falls asleep.
	quietRounds = 4
)

// comeBack starts the wait for the next round. Only the goroutine that has set awake may call it, and the round itself.
func (w *watcher) comeBack() { time.AfterFunc(watchEvery, w.round) }

// round looks at all connections.
func (w *watcher) round() {
	if w.quiet++; w.look() {
		w.quiet = 0
	}
	if w.quiet < quietRounds {
		w.comeBack()
		return
	}
	w.quiet = 0
	w.awake.Store(false)
	// A request that began in the meantime may have relied on a watcher that was still awake.
	if w.look() && w.awake.CompareAndSwap(false, true) {
		w.comeBack()
	}
}

// look looks at all connections, and reports whether there are requests that it has to look at again.
func (w *watcher) look() (again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		if c.look() {
			again = true
		}
	}
	return again
}

// add makes the watcher look at a new connection.
func (w *watcher) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.at = len(w.conns)
	w.conns = append(w.conns, c)
}

// remove makes the watcher forget a connection. A request may still be using it.
func (w *watcher) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.conns) - 1
	moved := w.conns[last]
	w.conns[last] = nil
	w.conns[c.at], moved.at = moved, c.at
	w.conns = w.conns[:last]
}
