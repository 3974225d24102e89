package lane

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a [Lane]. All but the times are required; times that are not positive are no limits.
type Options struct {
	// Site returns the site that serves now. If it is nil, the lane serves nothing.
	Site func() *Site
	// HandOver passes a connection to a server that knows all of HTTP, and reports whether that server takes it. anew says that the client
	// may have begun with HTTP/2, or that nothing was read on the connection since the TLS handshake.
	HandOver func(c net.Conn, anew bool) bool
	// Back is called when the lane takes back a connection that was handed over, before the other server sees it closed.
	Back func()
	// Ended is called when a connection of the lane has been closed.
	Ended func()
	// Server is the server that requests show as theirs.
	Server *http.Server

	Idle           time.Duration // longest wait for the next request
	ReadHeader     time.Duration // longest wait for the rest of a head
	ReadTimeout    time.Duration // from the beginning of a request to its end
	WriteTimeout   time.Duration // from the end of a head to that of the answer
	MaxHeaderBytes int
}

// Lane serves connections.
type Lane struct {
	Options

	watcher *watcher

	draining atomic.Bool // answers tell clients to close their connections

	mu      sync.Mutex // guards the fields below
	conns   map[*conn]struct{}
	closing bool // idle connections are closed
}

// New returns a lane, or nil if the platform does not support one.
func New(o Options) *Lane {
	if !supported {
		return nil
	}
	l := &Lane{Options: o, conns: make(map[*conn]struct{})}
	l.watcher = newWatcher(l)
	return l
}

// Serve serves a connection, which may be a [*tls.Conn] before its handshake, on a goroutine of its own. The client must have sent
// something on it. Serve reports false if the lane does not serve such connections; c is unchanged then.
func (l *Lane) Serve(c net.Conn) bool {
	if l == nil {
		return false
	}
	made := newConn(l, c)
	if made == nil {
		return false
	}
	if !l.add(made) {
		return false
	}
	go made.serve()
	return true
}

// add registers a connection. It reports false if the lane takes no connections any more.
func (l *Lane) add(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

// remove unregisters a connection.
func (l *Lane) remove(c *conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

// Drain makes each answer from now on tell its client to close the connection.
func (l *Lane) Drain() {
	if l != nil {
		l.draining.Store(true)
	}
}

// Shutdown closes idle connections, at once or when their request has ended. It returns when there are none, or with the error of ctx.
func (l *Lane) Shutdown(ctx context.Context) error {
	if l == nil {
		return nil
	}
	defer l.watcher.close()
	ticker := time.NewTicker(shutdownInterval)
	defer ticker.Stop()
	for {
		if l.closeIdle() == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Free releases a lane that has no connections and gets none any more.
func (l *Lane) Free() {
	if l != nil {
		l.watcher.close()
	}
}

// shutdownInterval is the interval at which Shutdown looks for connections that have become idle.
const shutdownInterval = 10 * time.Millisecond

// closeIdle closes idle connections, and returns the number of connections, idle or not.
func (l *Lane) closeIdle() int {
	l.draining.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for c := range l.conns {
		if c.closeIdle() {
			delete(l.conns, c)
			c.cancel(context.Canceled)
			l.Ended()
		}
	}
	return len(l.conns)
}
