package simulate

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// epoch is the time at which simulations begin. It is later than the start of this process, because some estimates count from there, and the
// same in each run, because some counters are reset at whole seconds.
var epoch = time.Date(2100, time.January, 1, 0, 0, 0, 0, time.UTC)

// clock is virtual time: it jumps from one event to the next. It implements [pool.Clock].
type clock struct {
	now    time.Duration // since epoch
	heap   []*event      // a binary heap; the first event comes next
	events uint64        // number of scheduled events: of two events at the same time, the one scheduled first comes first
}

// event is a function that is called at a time. It implements [pool.Timer].
type event struct {
	clock *clock
	at    time.Duration
	order uint64
	place int // index in the heap; -1 if it is not there
	call  func()
}

// Now implements [pool.Clock].
func (c *clock) Now() time.Time { return epoch.Add(c.now) }

// AfterFunc implements [pool.Clock].
func (c *clock) AfterFunc(d time.Duration, f func()) pool.Timer { return c.after(d, f) }

// after schedules an event.
func (c *clock) after(d time.Duration, f func()) *event {
	e := &event{clock: c, call: f}
	c.push(e, d)
	return e
}

// push puts an event, which must not be in the heap, there, to be called after d.
func (c *clock) push(e *event, d time.Duration) {
	c.events++
	e.at, e.order, e.place = c.now+max(d, 0), c.events, len(c.heap)
	c.heap = append(c.heap, e)
	c.up(e.place)
}

// Stop implements [pool.Timer]. A nil event does nothing.
func (e *event) Stop() bool {
	if e == nil || e.place < 0 {
		return false
	}
	e.clock.remove(e.place)
	return true
}

// Reset implements [pool.Timer].
func (e *event) Reset(d time.Duration) bool {
	was := e.Stop()
	e.clock.push(e, d)
	return was
}

// run calls the next event, unless it comes after that time, and reports whether it did.
func (c *clock) run(end time.Duration) bool {
	if len(c.heap) == 0 || c.heap[0].at > end {
		return false
	}
	next := c.heap[0]
	c.remove(0)
	c.now = next.at
	next.call()
	return true
}

// remove removes the event at that index from the heap.
func (c *clock) remove(i int) {
	last := len(c.heap) - 1
	c.heap[i].place = -1
	if i != last {
		c.heap[i] = c.heap[last]
		c.heap[i].place = i
	}
	c.heap[last] = nil
	c.heap = c.heap[:last]
	if i != last {
		c.down(i)
		c.up(i)
	}
}

func (c *clock) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !c.less(i, parent) {
			return
		}
		c.swap(i, parent)
		i = parent
	}
}

func (c *clock) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(c.heap); child++ {
			if c.less(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		c.swap(i, least)
		i = least
	}
}

func (c *clock) less(i, k int) bool {
	a, b := c.heap[i], c.heap[k]
	return a.at < b.at || a.at == b.at && a.order < b.order
}

func (c *clock) swap(i, k int) {
	c.heap[i], c.heap[k] = c.heap[k], c.heap[i]
	c.heap[i].place, c.heap[k].place = i, k
}
