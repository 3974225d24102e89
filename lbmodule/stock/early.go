package stock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// DeferWriteErrors makes the transport deliver an answer that a backend sends before it stops reading the request. After a failed write,
// net/http's transport gives up before it reads what has arrived. So a failed write to these connections returns only when everything has
// been read.
func (t *Transport) DeferWriteErrors() {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || h.Transport == nil || h.Transport.DialContext == nil {
		return
	}
	dial := h.Transport.DialContext
	h.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &deferringConn{Conn: conn, over: make(chan struct{})}, nil
	}
}

// deferringConn is a connection whose failed writes return after its reads have ended. A transport reads on one goroutine and writes on another.
// Before the first request a single goroutine may do both, as in a TLS handshake; a write must not wait for reads then.
type deferringConn struct {
	net.Conn
	once  sync.Once
	over  chan struct{} // closed when there is nothing more to read
	reads atomic.Uint64 // the number of reads
	half  atomic.Bool   // closed for writing

	busy atomic.Int32 // reads and writes that have not returned
	both atomic.Bool  // a read and a write have overlapped
}

// readWait is how long a failed write waits for the next read. After that it assumes that the reader has given up.
const readWait = 5 * time.Second

// overlapWait is how long a failed write waits for reads and writes to overlap. If the transport reads on a separate goroutine, that starts
// when the connection is made.
const overlapWait = 100 * time.Millisecond

// Read implements [net.Conn].
func (c *deferringConn) Read(p []byte) (int, error) {
	c.begin()
	defer c.busy.Add(-1)
	n, err := c.Conn.Read(p)
	c.reads.Add(1)
	if err != nil {
		c.once.Do(c.end)
	}
	return n, err
}

// Write implements [net.Conn].
func (c *deferringConn) Write(p []byte) (int, error) {
	c.begin()
	defer c.busy.Add(-1)
	n, err := c.Conn.Write(p)
	if (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) && !c.half.Load() {
		c.awaitReads() // bound: no more data arrives after a reset
	}
	return n, err
}

// begin counts a read or a write that begins.
func (c *deferringConn) begin() {
	if c.busy.Add(1) > 1 && !c.both.Load() {
		c.both.Store(true)
	}
}

// awaitReads waits until everything has been read, or the reader has given up.
func (c *deferringConn) awaitReads() {
	if !c.both.Load() {
		begun := time.NewTimer(overlapWait)
		defer begun.Stop()
		select {
		case <-c.over:
			return
		case <-begun.C:
		}
		if !c.both.Load() {
			return
		}
	}
	tick := time.NewTicker(readWait)
	defer tick.Stop()
	for before := c.reads.Load(); ; {
		select {
		case <-c.over:
			return
		case <-tick.C:
			now := c.reads.Load()
			if now == before {
				return
			}
			before = now
		}
	}
}

// Close implements [net.Conn].
func (c *deferringConn) Close() error {
	c.once.Do(c.end)
	return c.Conn.Close()
}

// CloseWrite closes the connection for writing, if it can. Tunnels close each direction separately.
func (c *deferringConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("closing a connection for writing: %w", http.ErrNotSupported)
	}
	c.half.Store(true)
	return half.CloseWrite()
}

func (c *deferringConn) end() { close(c.over) }
