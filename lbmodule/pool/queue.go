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
	// ErrQueueFull is returned when as many requests wait for a slot as may.
	ErrQueueFull = errors.New("all usable backends are at max_requests and the queue is full")
	// ErrQueueTimeout is returned when a request has waited for a slot for as long as it may.
	ErrQueueTimeout = errors.New("all usable backends were at max_requests for the time that a request may wait")
)

// queue holds the requests that wait for a slot on any member of a pool: those of one client in the order in which they
// came, the clients in turn. A client that sends many requests waits behind its own (fair queueing: J. Nagle, RFC 970).
//
// Whoever is woken tries for itself, with no lock held; if somebody else was faster it is the next again. It counts as
// waiting until it has a slot, so that nobody who comes later is served before.
type queue struct {
	length atomic.Int64 // requests waiting, asleep or just woken

	mu     sync.Mutex
	lines  map[string]*line // of clients that have somebody asleep
	turns  list.List        // of *line, the next one first
	sizes  []*list.List     // of *line, by how many are asleep in them
	missed int              // slots that became free while nobody was asleep
}

// line is what one client has waiting.
type line struct {
	client string
	asleep list.List // of *waiter, the next one first
	turn   *list.Element
	sized  *list.Element
}

type waiter struct {
	client  string
	woken   chan struct{} // has room for the one signal
	at      *list.Element // in the line; nil while awake
	cascade bool          // there may be more slots than this one
	ousted  bool          // another client has the place
}

// QueueLength is how many requests wait for a slot.
func (p *Pool) QueueLength() int { return int(p.queue.length.Load()) }

// free tells the queue that there is a slot, or with more that there may be several.
func (p *Pool) free(more bool) {
	if p.queue.length.Load() > 0 {
		p.queue.wake(more)
	}
}

// Wake has those who wait look again: there are other slots than before, in another view.
func (p *Pool) Wake() { p.free(true) }

// Wait has a request of that client wait until try succeeds, which is called each time that it may. It returns what try
// returned last, unless that is ErrFull: then ErrQueueFull if there are size requests waiting already, ErrQueueTimeout
// when the time is up, or the error of ctx.
func (p *Pool) Wait(ctx context.Context, client string, size int, timeout time.Duration, try func() error) error {
	q := &p.queue
	w := &waiter{client: client, woken: make(chan struct{}, 1)}
	if err := q.enter(w, size, try); !errors.Is(err, ErrFull) {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	// The loop ends: every turn but the last, somebody else was given the slot, and there is the timer.
	for {
		var err error
		select {
		case <-w.woken:
		case <-timer.C:
			err = ErrQueueTimeout
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			q.leave(w)
			return err
		}
		if q.isOusted(w) {
			return ErrQueueFull
		}
		if err := try(); !errors.Is(err, ErrFull) {
			q.length.Add(-1)
			if w.cascade || err != nil {
				q.wake(true)
			}
			return err
		}
		q.sleep(w, true)
	}
}

func (q *queue) isOusted(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return w.ousted
}

// enter puts w to sleep, unless try succeeds or the queue is full.
func (q *queue) enter(w *waiter, size int, try func() error) error {
	q.mu.Lock()
	if q.length.Load() >= int64(size) && !q.oust(w.client) {
		q.mu.Unlock()
		return ErrQueueFull
	}
	// From now on slots that become free are told of. One may have become so just before.
	q.length.Add(1)
	empty := q.turns.Len() == 0
	q.mu.Unlock()
	if empty {
		if err := try(); !errors.Is(err, ErrFull) {
			q.length.Add(-1)
			return err
		}
	}
	q.sleep(w, false)
	return ErrFull
}

// sleep puts w to sleep, with first before all others. If a slot was missed it is woken at once.
func (q *queue) sleep(w *waiter, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.cascade = false
	if q.missed > 0 {
		q.missed--
		w.woken <- struct{}{}
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

// wake wakes the next one, if there is one. With cascade there may be more to be had than one slot: whoever succeeds
// wakes another.
func (q *queue) wake(cascade bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := q.turns.Front()
	if next == nil {
		// Those who are awake may have looked before.
		awake := int(q.length.Load())
		if q.missed = min(q.missed+1, awake); cascade {
			q.missed = awake
		}
		return
	}
	l := next.Value.(*line)
	w := l.asleep.Front().Value.(*waiter)
	q.turns.MoveToBack(next)
	q.remove(l, w)
	w.cascade = cascade
	w.woken <- struct{}{}
}

// leave takes out a waiter that gives up. If it was woken meanwhile, the next one is.
func (q *queue) leave(w *waiter) {
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

// oust makes room for a request of that client by taking the place of the newest of those who have most waiting, if that
// leaves them with no less than the client will have.
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
	w := l.asleep.Back().Value.(*waiter)
	q.remove(l, w)
	q.length.Add(-1)
	w.ousted = true
	w.woken <- struct{}{}
	return true
}

// remove takes w out of its line.
func (q *queue) remove(l *line, w *waiter) {
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

// size notes how many are asleep in l; unsize forgets it.
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
