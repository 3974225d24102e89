package lane

import (
	"time"

	"golang.org/x/sys/unix"
)

// sweepEvery is how often parked connections are compared with their deadlines.
const sweepEvery = time.Second

// park waits until that time for the next request of c, for ever if it is zero, and then resumes c. It reports false if it cannot.
func (h *watcher) park(c *conn, until time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.open() != nil || !h.register(c, unix.EPOLLIN|unix.EPOLLRDHUP) {
		return false
	}
	c.watched.parked, c.watched.until = true, until
	if !h.sweeps && !until.IsZero() {
		h.sweeps = true
		time.AfterFunc(sweepEvery, h.sweep)
	}
	return true
}

// unpark ends the wait. It reports whether c was parked.
func (h *watcher) unpark(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.watched.parked {
		return false
	}
	c.watched.parked = false
	h.forget(c)
	return true
}

// sweep closes the connections that have been parked for too long.
func (h *watcher) sweep() {
	for _, c := range h.tooLong(time.Now()) {
		if c.state.CompareAndSwap(idle, over) {
			c.close()
		}
	}
}

// tooLong removes and returns the connections whose time is over.
func (h *watcher) tooLong(now time.Time) (all []*conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := false
	for _, c := range h.watched {
		switch {
		case !c.watched.parked || c.watched.until.IsZero():
		case now.After(c.watched.until):
			c.watched.parked = false
			h.forget(c)
			all = append(all, c)
		default:
			left = true
		}
	}
	if h.sweeps = left && !h.closed; h.sweeps {
		time.AfterFunc(sweepEvery, h.sweep)
	}
	return all
}
