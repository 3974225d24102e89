package engine

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// idle holds the idle connections. The zero idle is empty.
type idle struct {
	mu      sync.Mutex // guards the fields below
	hosts   map[string][]*conn
	n       int // of all hosts
	closed  bool
	reaper  *time.Timer // nil while there is nothing to reap
	surplus *time.Timer // nil while no host has more connections than it may keep
}

// reapEvery is the interval at which idle connections are checked for their age and for being closed by the backend. An idle connection
// has no goroutine that would notice.
const reapEvery = 5 * time.Second

// surplusFor is how long a host's idle connections are kept beyond their maximum number. Under load, the number of connections in use
// changes all the time. Without the surplus, connections would have to be made whenever it rises.
const surplusFor = 100 * time.Millisecond

// take returns a live connection to this host that has been idle for at most longest, if that is not 0; nil if there is none. The most
// recently used one comes first, so that surplus connections expire. asks says that the request is complete: then sending it shows whether
// the connection is alive, see [conn.askOnce].
func (i *idle) take(host string, longest time.Duration, now time.Time, asks bool) *conn {
	for {
		i.mu.Lock()
		list := i.hosts[host]
		if len(list) == 0 {
			i.mu.Unlock()
			return nil
		}
		last := len(list) - 1
		c := list[last]
		list[last] = nil
		i.hosts[host] = list[:last]
		i.n--
		i.mu.Unlock()
		if !c.isOld(longest, now) && (asks && c.quick != nil || c.alive()) {
			return c
		}
		c.close()
	}
}

// isOver reports whether an idle connection is dead, or has been idle for longest, if that is not 0.
func (c *conn) isOver(longest time.Duration, now time.Time) bool {
	return c.isOld(longest, now) || !c.alive()
}

func (c *conn) isOld(longest time.Duration, now time.Time) bool {
	now = now.Round(0) // uses the wall clock, because the monotonic clock stops while a machine sleeps
	return longest > 0 && now.Sub(c.since) >= longest
}

// put keeps a connection. If enough are kept in all, it closes this one or the oldest one. If enough are kept for this host only, it keeps
// one more for a moment.
func (i *idle) put(c *conn, now time.Time) {
	if over := i.keep(c, now); over != nil {
		over.close()
	}
}

// keep adds the connection and returns the surplus one, nil if there is none.
func (i *idle) keep(c *conn, now time.Time) (over *conn) {
	settings := c.client
	most := settings.MaxIdleConnsPerHost
	if most == 0 {
		most = http.DefaultMaxIdleConnsPerHost
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	full := settings.MaxIdleConns > 0 && i.n >= settings.MaxIdleConns
	switch surplus := len(i.hosts[c.host]) >= most; {
	case i.closed, most < 0, surplus && full:
		return c
	case full:
		over = i.dropOldest()
	case surplus && i.surplus == nil:
		i.surplus = time.AfterFunc(surplusFor, func() { i.trim(most, time.Now()) })
	}
	if i.hosts == nil {
		i.hosts = make(map[string][]*conn)
	}
	c.since = now
	i.hosts[c.host] = append(i.hosts[c.host], c)
	i.n++
	if i.reaper == nil {
		i.reaper = time.AfterFunc(reapEvery, func() { i.reap(settings.IdleConnTimeout, time.Now()) })
	}
	return over
}

// dropOldest removes the connection that has been idle for longest. There must be one.
func (i *idle) dropOldest() *conn {
	var oldest *conn
	for _, list := range i.hosts {
		if len(list) > 0 && (oldest == nil || list[0].since.Before(oldest.since)) {
			oldest = list[0]
		}
	}
	i.hosts[oldest.host] = slices.Delete(i.hosts[oldest.host], 0, 1)
	i.n--
	return oldest
}

// reap closes the connections that are older than longest, if that is not 0, and dead ones.
func (i *idle) reap(longest time.Duration, now time.Time) {
	i.mu.Lock()
	var closing []*conn
	for host, list := range i.hosts {
		list = slices.DeleteFunc(list, func(c *conn) bool {
			over := c.isOver(longest, now)
			if over {
				closing = append(closing, c)
			}
			return over
		})
		if i.hosts[host] = list; len(list) == 0 {
			delete(i.hosts, host)
		}
	}
	i.n -= len(closing)
	if i.n > 0 && !i.closed {
		i.reaper.Reset(reapEvery)
	} else {
		i.reaper = nil
	}
	i.mu.Unlock()
	for _, c := range closing {
		c.close()
	}
}

// trim closes the surplus connections that have been idle for surplusFor. most is the maximum number for each host.
func (i *idle) trim(most int, now time.Time) {
	var closing []*conn
	again := false
	i.mu.Lock()
	for host, list := range i.hosts {
		n := 0
		for n < len(list)-most && now.Sub(list[n].since) >= surplusFor {
			n++
		}
		closing = append(closing, list[:n]...)
		i.hosts[host] = slices.Delete(list, 0, n)
		again = again || len(list)-n > most
	}
	i.n -= len(closing)
	if again && !i.closed {
		i.surplus.Reset(surplusFor)
	} else {
		i.surplus = nil
	}
	i.mu.Unlock()
	for _, c := range closing {
		c.close()
	}
}

// close closes all idle connections, and those that are put back later.
func (i *idle) close() {
	i.mu.Lock()
	hosts := i.hosts
	i.hosts, i.n, i.closed = nil, 0, true
	if i.reaper != nil {
		i.reaper.Stop()
	}
	if i.surplus != nil {
		i.surplus.Stop()
	}
	i.mu.Unlock()
	for _, list := range hosts {
		for _, c := range list {
			c.close()
		}
	}
}
