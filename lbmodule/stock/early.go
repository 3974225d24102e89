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

// HearOut has the transport pass on what a backend answered before it stopped reading a request. It is told of a failed write, and gives
// the request up, before it has looked at what has come; a write over these connections fails when all of that has been read.
func (t *Transport) HearOut() {
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
		return &heardOut{Conn: conn, over: make(chan struct{})}, nil
	}
}

// heardOut is a connection whose writes fail after its reads. One goroutine reads from it and another writes, as transports do. Until a
// request is sent it may be one for both, as in TLS's handshake: then there is nobody who could read while a write waits.
type heardOut struct {
	net.Conn
	once  sync.Once
	over  chan struct{} // closed when there is nothing more to read
	reads atomic.Uint64 // how many there have been
	half  atomic.Bool   // closed for writing

	busy atomic.Int32 // reads and writes that have not returned
	both atomic.Bool  // there have been two at the same time
}

// hearFor is how long a write that has failed waits for the next read. Somebody who does not read does not want to hear.
const hearFor = 5 * time.Second

// hearFirst is how long it waits where nobody has read yet while somebody wrote: whoever is to read begins when the connection is made.
const hearFirst = 100 * time.Millisecond

// Read implements [net.Conn].
func (c *heardOut) Read(p []byte) (int, error) {
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
func (c *heardOut) Write(p []byte) (int, error) {
	c.begin()
	defer c.busy.Add(-1)
	n, err := c.Conn.Write(p)
	if (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) && !c.half.Load() {
		c.hearOut() // after a reset there is an end to what can be read
	}
	return n, err
}

// begin notes that a read or a write begins.
func (c *heardOut) begin() {
	if c.busy.Add(1) > 1 && !c.both.Load() {
		c.both.Store(true)
	}
}

// hearOut waits until everything has been read.
func (c *heardOut) hearOut() {
	if !c.both.Load() {
		begun := time.NewTimer(hearFirst)
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
	tick := time.NewTicker(hearFor)
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
func (c *heardOut) Close() error {
	c.once.Do(c.end)
	return c.Conn.Close()
}

// CloseWrite closes the connection for writing, where it has that: tunnels are closed one way after the other.
func (c *heardOut) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("closing a connection for writing: %w", http.ErrNotSupported)
	}
	c.half.Store(true)
	return half.CloseWrite()
}

func (c *heardOut) end() { close(c.over) }
