package pool

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrQueueFull is returned when the maximum number of requests already waits for a slot.
	ErrQueueFull = errors.New("all usable backends are at max_requests and the queue is full")
	// ErrQueueTimeout is returned when a request has waited for a slot for the maximum time.
	ErrQueueTimeout = errors.New("all usable backends were at max_requests for the time that a request may wait")
	// ErrDismissed is returned when a request waits for a slot and the process is about to exit.
	ErrDismissed = errors.New("all usable backends were at max_requests until the server shut down")
)

// queue holds the requests that wait for a slot on any member of a pool. Clients are served round robin, and the requests of one client in
// order of arrival, so that a client that sends many requests only delays its own (fair queueing: J. Nagle, RFC 970).
//
// A woken request tries to get a slot itself, with no lock held. If another request was faster, it goes back to the front. It counts as
// waiting until it has a slot, so that no later request overtakes it.
type queue struct {
	length atomic.Int64 // number of waiting requests, asleep or just woken

	mu     sync.Mutex
	lines  map[string]*line // of clients with sleeping requests
	turns  list.List        // of *line, the next one first
	sizes  []*list.List     // of *line, by the number of sleeping requests
	missed int              // slots that became free while no request was asleep
}

// line holds the waiting requests of one client.
type line struct {
	client string
	asleep list.List // of *Waiter, the next one first
	turn   *list.Element
	sized  *list.Element
}

// Waiter is a request in the queue. It must be used by one goroutine at a time.
type Waiter struct {
	pool    *Pool
	client  string
	try     func() error
	wake    func()
	at      *list.Element // in the line; nil while awake
	cascade bool          // there may be more slots than this one
	ousted  bool          // a request of another client has taken the place
}

// QueueLength returns the number of requests that wait for a slot.
func (p *Pool) QueueLength() int { return int(p.queue.length.Load()) }

// free tells the queue that a slot is free or, with more, that there may be several.
func (p *Pool) free(more bool) {
	if p.queue.length.Load() > 0 {
		p.queue.wake(more)
	}
}

// Wake makes all waiting requests try again, because another view has other slots.
func (p *Pool) Wake() { p.free(true) }

// Wait makes a request of this client wait until try, which is called each time that a slot may be free, succeeds. It returns the last
// result of try, unless that is ErrFull: then ErrQueueFull if size requests already wait, ErrQueueTimeout when the time is up,
// ErrDismissed after [Pool.Dismiss], or [context.Canceled] if ctx is canceled. A deadline of ctx counts as a timeout, too.
func (p *Pool) Wait(ctx context.Context, client string, size int, timeout time.Duration, try func() error) error {
	woken := make(chan struct{}, 1) // buffers the one signal
	w, err := p.Enqueue(client, size, try, func() { woken <- struct{}{} })
	if !errors.Is(err, ErrFull) {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	// The loop ends: in every turn but the last another request got the slot, and the timer bounds the wait.
	for {
		var err error
		select {
		case <-woken:
			if err = w.Woken(); !errors.Is(err, ErrFull) {
				return err
			}
			continue
		case <-timer.C:
			err = ErrQueueTimeout
		case <-p.dismissed:
			err = ErrDismissed
		case <-ctx.Done():
			if err = ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
				err = ErrQueueTimeout
			}
		}
		w.Leave()
		return err
	}
}

// Enqueue is the first part of [Pool.Wait], for callers that wait in another way. If it returns ErrFull, the request waits: each time that
// wake is called, [Waiter.Woken] must follow, and [Waiter.Leave] if the request gives up. wake is called with a lock held, and must not
// wait.
func (p *Pool) Enqueue(client string, size int, try func() error, wake func()) (*Waiter, error) {
	w := &Waiter{pool: p, client: client, try: try, wake: wake}
	return w, p.queue.enter(w, size)
}

// Woken tries to get a slot. It returns ErrFull if the request continues to wait, and otherwise the result of the wait.
func (w *Waiter) Woken() error {
	q := &w.pool.queue
	if q.isOusted(w) {
		return ErrQueueFull
	}
	err := w.try()
	if errors.Is(err, ErrFull) {
		q.sleep(w, true)
		return err
	}
	q.length.Add(-1)
	if w.cascade || err != nil {
		q.wake(true)
	}
	return err
}

// Leave ends the wait of a request that gives up.
func (w *Waiter) Leave() { w.pool.queue.leave(w) }

func (q *queue) isOusted(w *Waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return w.ousted
}

// enter puts w to sleep, unless try succeeds or the queue is full.
func (q *queue) enter(w *Waiter, size int) error {
	q.mu.Lock()
	if q.length.Load() >= int64(size) && !q.oust(w.client) {
		q.mu.Unlock()
		return ErrQueueFull
	}
	// From here on, free slots are reported to w. One may have become free just before.
	q.length.Add(1)
	empty := q.turns.Len() == 0
	q.mu.Unlock()
	if empty {
		if err := w.try(); !errors.Is(err, ErrFull) {
			q.length.Add(-1)
			return err
		}
	}
	q.sleep(w, false)
	return ErrFull
}

// sleep puts w to sleep, before all others if first is set. If a slot was missed, w is woken at once.
func (q *queue) sleep(w *Waiter, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.cascade = false
	if q.missed > 0 {
		q.missed--
		w.wake()
		return
	}
	l := q.lines[w.client]
	if l == nil {
		l = &line{client: w.client}
		if q.lines == nil {
			q.lines = make(map[string]*line)
		}
		q.lines[w.client] = l
		l.turn = q.turns.PushBack(l)
	}
	q.unsize(l)
	if first {
		w.at = l.asleep.PushFront(w)
		q.turns.MoveToFront(l.turn)
	} else {
		w.at = l.asleep.PushBack(w)
	}
	q.size(l)
}

// wake wakes the next request, if there is one. cascade says that there may be more than one slot: a request that succeeds wakes the
// next.
func (q *queue) wake(cascade bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := q.turns.Front()
	if next == nil {
		// The requests that are awake may have tried before.
		awake := int(q.length.Load())
		if q.missed = min(q.missed+1, awake); cascade {
			q.missed = awake
		}
		return
	}
	l := next.Value.(*line)
	w := l.asleep.Front().Value.(*Waiter)
	q.turns.MoveToBack(next)
	q.remove(l, w)
	w.cascade = cascade
	w.wake()
}

// leave removes a waiter that gives up. If it had been woken, the next one is woken instead.
func (q *queue) leave(w *Waiter) {
	q.mu.Lock()
	asleep, ousted, cascade := w.at != nil, w.ousted, w.cascade
	if asleep {
		q.remove(q.lines[w.client], w)
	}
	q.mu.Unlock()
	if ousted {
		return
	}
	q.length.Add(-1)
	if !asleep {
		q.wake(cascade)
	}
}

// oust makes room for a request of this client by removing the newest request of the client with most waiting requests, if that leaves
// the other client with no fewer than this one will have.
func (q *queue) oust(client string) bool {
	own := 0
	if l := q.lines[client]; l != nil {
		own = l.asleep.Len()
	}
	largest := len(q.sizes) - 1
	if own+1 >= largest {
		return false
	}
	l := q.sizes[largest].Front().Value.(*line)
	w := l.asleep.Back().Value.(*Waiter)
	q.remove(l, w)
	q.length.Add(-1)
	w.ousted = true
	w.wake()
	return true
}

// remove removes w from its line.
func (q *queue) remove(l *line, w *Waiter) {
	q.unsize(l)
	l.asleep.Remove(w.at)
	w.at = nil
	if l.asleep.Len() == 0 {
		q.turns.Remove(l.turn)
		delete(q.lines, l.client)
		return
	}
	q.size(l)
}

// size updates the place of l in sizes; unsize removes l from there.
func (q *queue) size(l *line) {
	n := l.asleep.Len()
	for len(q.sizes) <= n {
		q.sizes = append(q.sizes, new(list.List))
	}
	l.sized = q.sizes[n].PushBack(l)
}

func (q *queue) unsize(l *line) {
	if l.sized == nil {
		return
	}
	q.sizes[l.asleep.Len()].Remove(l.sized)
	l.sized = nil
	for n := len(q.sizes); n > 0 && q.sizes[n-1].Len() == 0; n-- {
		q.sizes = q.sizes[:n-1]
	}
}
