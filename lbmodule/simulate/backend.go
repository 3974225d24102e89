package simulate

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// States of backends.
const (
	up      = "up"
	down    = "down"
	stopped = "stopped"
)

// usual is the behavior of a backend without changes.
var usual = Behavior{Status: 200, State: up}

const statusUnavailable = 503

// backend is a backend of all balancers.
type backend struct {
	place         int // index among all backends
	clock         *clock
	random        *rand.Rand
	name, address string
	Behavior
	logged []caddy.Duration // durations from an access log; nil if there is none

	working []*work // in no particular order
	queue   []*work // work waiting for a worker, in the order of arrival, including abandoned work
	waiting int     // number of those in queue that are not abandoned
	frozen  []*work // work that arrived, or was finished, while the backend was stopped, in that order
}

// work is a backend's work on one attempt.
type work struct {
	at       *backend
	place    int  // index in working; -1 if it is not there
	queued   bool // it is in queue
	finished bool
	gone     bool   // the balancer has abandoned it, or it has ended
	end      *event // when it is finished
	status   int
	done     func(status int) // called when it is answered, or with 0 when it breaks off
}

// receive begins to work on a request. It must not be called while connections are refused.
func (b *backend) receive(done func(status int)) *work {
	w := &work{at: b, place: -1, done: done}
	if b.State == stopped {
		b.frozen = append(b.frozen, w)
		return w
	}
	b.accept(w)
	return w
}

// accept gives work to a worker, or puts it into the queue.
func (b *backend) accept(w *work) {
	switch {
	case b.Workers == 0 || len(b.working) < b.Workers:
		b.begin(w)
	case b.Backlog > 0 && b.waiting >= b.Backlog:
		w.gone = true
		b.clock.after(0, func() { w.done(statusUnavailable) })
	default:
		b.queue, w.queued = append(b.queue, w), true
		b.waiting++
	}
}

// begin gives work to a worker.
func (b *backend) begin(w *work) {
	w.place = len(b.working)
	b.working = append(b.working, w)
	took := b.takes()
	w.status = b.Status
	if b.FailRatio > 0 && b.random.Float64() < b.FailRatio {
		w.status = statusUnavailable
	}
	w.end = b.clock.after(took, w.finish)
}

// takes draws how long a request takes.
func (b *backend) takes() time.Duration {
	if b.SlowNext > 0 {
		b.SlowNext--
		return time.Duration(b.SlowDelay)
	}
	if b.logged != nil {
		return time.Duration(b.logged[b.random.IntN(len(b.logged))])
	}
	return b.Times.draw(b.random)
}

// draw draws a duration.
func (t *Times) draw(random *rand.Rand) time.Duration {
	switch {
	case len(t.Samples) > 0:
		return time.Duration(t.Samples[random.IntN(len(t.Samples))])
	case t.SlowRatio > 0 && random.Float64() < t.SlowRatio:
		return time.Duration(t.SlowDelay)
	}
	delay := time.Duration(t.Delay)
	if t.Sigma > 0 {
		delay = time.Duration(min(float64(delay)*math.Exp(t.Sigma*random.NormFloat64()), float64(maxDuration)))
	}
	if t.Jitter > 0 {
		delay += time.Duration(random.Int64N(int64(t.Jitter)))
	}
	return delay
}

// finish answers the request, unless the backend is stopped.
func (w *work) finish() {
	b := w.at
	if b.State == stopped {
		w.finished = true
		b.frozen = append(b.frozen, w)
		return
	}
	w.leave()
	w.done(w.status)
}

// leave frees the worker, which takes the next request.
func (w *work) leave() {
	b := w.at
	w.gone = true
	if w.place < 0 {
		return
	}
	last := len(b.working) - 1
	b.working[w.place] = b.working[last]
	b.working[w.place].place = w.place
	b.working[last] = nil
	b.working, w.place = b.working[:last], -1
	b.next()
}

// next gives queued work to free workers.
func (b *backend) next() {
	for b.State == up && len(b.queue) > 0 && (b.Workers == 0 || len(b.working) < b.Workers) {
		w := b.queue[0]
		b.queue = b.queue[1:]
		w.queued = false
		if !w.gone {
			b.waiting--
			b.begin(w)
		}
	}
}

// cancel is called when the balancer abandons the request. The backend notices at once, as a real one notices a closed connection, unless
// it is stopped.
func (w *work) cancel() {
	b := w.at
	switch {
	case w.gone:
	case w.place >= 0 && b.State != stopped:
		w.end.Stop()
		w.leave()
	case w.place >= 0:
		w.done = func(int) {} // its worker is not free before the backend resumes
	default:
		w.gone = true
		if w.queued {
			b.waiting--
		}
	}
}

// change changes the behavior of b.
func (b *backend) change(to Behavior) {
	from := b.State
	b.Behavior = to
	switch {
	case to.State == down && from != down:
		b.crash()
	case to.State == up && from == stopped:
		b.resume()
	}
	b.next()
}

// crash breaks off all of b's work.
func (b *backend) crash() {
	all := slices.Concat(b.working, b.queue, b.frozen)
	b.working, b.queue, b.frozen, b.waiting = nil, nil, nil, 0
	for _, w := range all {
		if w.gone {
			continue
		}
		w.gone, w.place = true, -1
		w.end.Stop()
		w.done(0)
	}
}

// resume continues the work at which b was stopped.
func (b *backend) resume() {
	all := b.frozen
	b.frozen = nil
	for _, w := range all {
		switch {
		case w.gone:
		case w.finished:
			w.leave()
			w.done(w.status)
		default:
			b.accept(w)
		}
	}
}
