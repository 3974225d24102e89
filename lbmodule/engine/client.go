// Package engine is the short way to a backend: requests with no body, or a small one that is there, over plain connections that are kept, made on
// the goroutine of who asks. net/http's transport gives every connection two goroutines of its own, and hands each request over to
// them and back; most of what a transport costs a small request goes there.
//
// The engine takes the ordinary only ([Client.Takes]): what it does not take is for net/http's transport. It parses no HTTP
// itself: answers are read by [http.ReadResponse], as the transport does, so both agree on what an answer is.
package engine

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Client makes requests. Its settings are those of [http.Transport] of the same names, with their meaning, and must not be changed
// once it is in use. The zero Client, given DialContext, is ready to use. It is safe for concurrent use.
type Client struct {
	// DialContext makes a connection. Required.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// ResponseHeaderTimeout is how long to wait for an answer's header once the request has been written. Default: for ever.
	ResponseHeaderTimeout time.Duration

	// MaxResponseHeaderBytes bounds the header of an answer. Default: 10 MiB.
	MaxResponseHeaderBytes int64

	// MaxIdleConns and MaxIdleConnsPerHost bound the connections that are kept; 0 is no bound in all, and 2 for a host.
	MaxIdleConns, MaxIdleConnsPerHost int

	// IdleConnTimeout is for how long an idle connection is kept. Default: for ever.
	IdleConnTimeout time.Duration

	// DisableCompression keeps the client from asking for gzip, and from unpacking what comes for that, where a request does not
	// say what it accepts.
	DisableCompression bool

	// ReadBufferSize is in bytes. Default: 4 KiB.
	ReadBufferSize int

	// Streaming makes the requests whose body does not come at once. It is given what has come of the body, and the rest as it comes.
	// Required for requests with a body.
	Streaming http.RoundTripper

	idle    idle
	uploads uploads
	atOnce  time.Duration // in tests; 0 for the default
}

const (
	defaultHeaderBytes = 10 << 20
	defaultBuffer      = 4 << 10
)

// errHeaderTimeout is the error of a request whose answer did not begin in time.
var errHeaderTimeout net.Error = headerTimeout{}

type headerTimeout struct{}

func (headerTimeout) Error() string   { return "timeout awaiting response headers" }
func (headerTimeout) Timeout() bool   { return true }
func (headerTimeout) Temporary() bool { return true }

// RoundTrip implements [http.RoundTripper] for requests that the client takes. A body is read before there is a connection; what has not
// come of it is not waited for. A kept connection that the backend closed before it answered with anything is replaced by a new one, once,
// where nothing was sent or a request may be made again by itself.
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
		return nil, context.Cause(ctx) // and not how the body broke off then
	}
	return nil, err
}

// send makes a request with that body.
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
	out := chosen.out // with the body, which has been read
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

// CloseIdleConnections closes the connections that are kept. Those in use are closed when they are free, from then on.
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
