// Package engine is a fast HTTP client for plain requests with no body or a small one. It uses kept connections on the caller's
// goroutine. net/http's transport has two goroutines for each connection, and hands each request over to them and back; for a small
// request, that is most of its cost.
//
// The engine takes only ordinary requests ([Client.Takes]); all others go to net/http's transport. It parses answers itself, with little
// memory, as [http.ReadResponse] does: both agree on what is valid and what it means. Fuzz tests compare them.
package engine

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Client makes requests. Its settings have the names and meanings of those of [http.Transport], and must not be changed once it is in
// use. A Client needs only DialContext. It is safe for concurrent use.
type Client struct {
	// DialContext makes a connection. Required.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// ResponseHeaderTimeout bounds the time from the end of the request to the answer's header. Default: none.
	ResponseHeaderTimeout time.Duration

	// MaxResponseHeaderBytes bounds the header of an answer. Default: 10 MiB.
	MaxResponseHeaderBytes int64

	// MaxIdleConns and MaxIdleConnsPerHost bound the kept connections; 0 means no bound in total, and 2 per host.
	MaxIdleConns, MaxIdleConnsPerHost int

	// IdleConnTimeout is how long an idle connection is kept. Default: forever.
	IdleConnTimeout time.Duration

	// DisableCompression keeps the client from asking for gzip, and decompressing the answer, for requests without Accept-Encoding.
	DisableCompression bool

	// ReadBufferSize is in bytes. Default: 4 KiB.
	ReadBufferSize int

	// Streaming makes the requests whose body does not arrive at once. It gets the part of the body that has arrived, followed by the
	// rest. Required for requests with a body.
	Streaming http.RoundTripper

	idle    idle
	uploads uploads
	atOnce  time.Duration // in tests; 0 for the default
}

const (
	defaultHeaderBytes = 10 << 20
	defaultBuffer      = 4 << 10
)

// errHeaderTimeout is returned if an answer did not begin in time.
var errHeaderTimeout net.Error = headerTimeout{}

type headerTimeout struct{}

func (headerTimeout) Error() string   { return "timeout awaiting response headers" }
func (headerTimeout) Timeout() bool   { return true }
func (headerTimeout) Temporary() bool { return true }

// RoundTrip implements [http.RoundTripper] for requests that the client takes. It reads the body before it connects, without waiting for
// parts that have not arrived. If the backend closes a kept connection without answering, RoundTrip uses a new one, once, if nothing was
// sent or the request may be repeated.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if ctx.Err() != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, context.Cause(ctx)
	}
	if r.ContentLength == 0 {
		return c.send(r, nil)
	}
	u := c.uploads.take()
	if u.start(r.Body, int(r.ContentLength)); !u.isThere(cmp.Or(c.atOnce, defaultAtOnce)) {
		r = r.WithContext(ctx)
		r.Body = u
		return c.Streaming.RoundTrip(r)
	}
	defer c.uploads.put(u)
	defer r.Body.Close()
	body, err := u.whole()
	switch {
	case err == nil:
		return c.send(r, body)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx) // rather than the error of reading the body
	}
	return nil, err
}

// send makes a request with this body.
func (c *Client) send(r *http.Request, body []byte) (*http.Response, error) {
	ctx := r.Context()
	chosen, err := c.connect(ctx, r.URL.Host)
	if err != nil {
		return nil, err
	}
	chosen.out = append(appendHead(chosen.out[:0], r, c.asksGzip(r)), body...)
	res, err := chosen.exchange(r)
	if !errors.Is(err, errStale) {
		return res, err
	}
	out := chosen.out // includes the body
	if chosen, err = c.dial(ctx, r.URL.Host); err != nil {
		return nil, err
	}
	chosen.out = out
	return chosen.exchange(r)
}

// connect returns a kept connection, or makes one.
func (c *Client) connect(ctx context.Context, host string) (*conn, error) {
	if kept := c.idle.take(host, c.IdleConnTimeout, time.Now()); kept != nil {
		return kept, nil
	}
	return c.dial(ctx, host)
}

// dial makes a connection.
func (c *Client) dial(ctx context.Context, address string) (*conn, error) {
	made, err := c.DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return newConn(c, address, made), nil
}

// CloseIdleConnections closes the kept connections. Connections in use are closed when their requests end.
func (c *Client) CloseIdleConnections() {
	c.idle.close()
	c.uploads.close()
}

func (c *Client) headerBytes() int64 {
	if c.MaxResponseHeaderBytes <= 0 {
		return defaultHeaderBytes
	}
	return c.MaxResponseHeaderBytes
}

func (c *Client) bufferSize() int {
	if c.ReadBufferSize <= 0 {
		return defaultBuffer
	}
	return c.ReadBufferSize
}
