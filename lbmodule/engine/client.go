// Package engine is a fast HTTP client for plain requests. It uses kept connections on the caller's goroutine; the part of a body that
// does not arrive at once is sent by another one. net/http's transport has two goroutines for each connection, and hands each request over
// to them and back; for a small request, that is most of its cost.
//
// The engine takes only ordinary requests ([Client.Takes]); all others go to net/http's transport. It parses answers itself, with few
// allocations. It accepts what [http.ReadResponse] accepts, with the same result. Fuzz tests compare the two.
package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"sync/atomic"
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

	// ExpectContinueTimeout bounds the time for which a body is held back after a header with "Expect: 100-continue". Default: the body is
	// sent at once.
	ExpectContinueTimeout time.Duration

	// TLSClientConfig is for https. Default: that of crypto/tls.
	TLSClientConfig *tls.Config

	// TLSHandshakeTimeout bounds a TLS handshake. Default: none.
	TLSHandshakeTimeout time.Duration

	// HandOver takes a new connection to a host, on which the backend chose a protocol other than HTTP/1.1 from those that TLSClientConfig
	// offers. The request for which the connection was made fails with [HandedOver]. Default: such a connection is closed, and the request
	// fails.
	HandOver func(host string, made *tls.Conn)

	idle             idle
	watcher          watcher
	uploads          uploads
	atOnce, sendWait time.Duration // in tests; 0 for the defaults
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

// Call is one request, with memory for its answer. Its memory may be used for another Call once the body of the answer is closed.
type Call struct {
	Request *http.Request

	// Dialer makes connections for the request. Default: DialContext of the client.
	Dialer Dialer

	// Informer gets the informational answers (1xx). Default: they are dropped.
	Informer Informer

	// Patient says that the end of the request's context may be noticed a little late, as when it ends because the client leaves: see
	// [conn.watch].
	Patient bool

	// Head composes the head of the request. Default: it is made from the fields of Request.
	Head Head

	answer answer
	used   bool  // answer is in use
	lines  Lines // of the answer, if Head is set
	first  *Call // of the same request; nil if this is the first

	over atomic.Pointer[conn] // the last connection that the request was given to
	off  atomic.Bool          // the request was broken off
}

// Dialer makes connections.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Informer receives informational answers (1xx).
type Informer interface {
	Inform(status int, header textproto.MIMEHeader)
}

// with returns a copy of k for r, with memory of its own.
func (k *Call) with(r *http.Request) *Call {
	return &Call{Request: r, Dialer: k.Dialer, Informer: k.Informer, Patient: k.Patient, Head: k.Head, first: cmp.Or(k.first, k)}
}

// newAnswer returns memory for an answer: that of k the first time, new memory for another attempt.
func (k *Call) newAnswer() *answer {
	a := &k.answer
	if k.used {
		a = new(answer)
	}
	k.used = true
	if k.Head != nil {
		a.lines = &cmp.Or(k.first, k).lines
	}
	return a
}

// RoundTrip implements [http.RoundTripper] for requests that the client takes.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) { return c.Do(&Call{Request: r}) }

// Do makes the request of k, which the client must take. It reads a small body that arrives at once before it connects. If the backend
// closes a kept connection without answering, Do uses a new one, once, if nothing was sent or the request may be repeated.
func (c *Client) Do(k *Call) (*http.Response, error) {
	r := k.Request
	ctx := r.Context()
	if ctx.Err() != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, context.Cause(ctx)
	}
	length := bodyLength(r)
	if length == 0 {
		chosen, err := c.connect(k, true)
		if err != nil {
			return nil, instead(err, r)
		}
		return c.sendBare(chosen, k)
	}
	u := c.uploads.take()
	u.prepare(k, length, c.asksGzip(k))
	// With TLS, it depends on the connection whether the client or the side that gets it from HandOver must read the body.
	if length < 0 || length > MaxBody || isPrompt(r.Header) || r.URL.Scheme == "https" {
		return c.upload(k, u)
	}
	u.start()
	end, ended := u.await(c.patience())
	if !ended {
		chosen, err := c.connect(k, false)
		if err != nil {
			u.drop()
			return nil, err
		}
		return c.sendOn(chosen, k, u, end)
	}
	defer c.uploads.put(u)
	defer r.Body.Close()
	switch err := u.check(); {
	case err == nil:
	case ctx.Err() != nil:
		return nil, context.Cause(ctx) // rather than the error of reading the body
	default:
		return nil, err
	}
	chosen, err := c.connect(k, true)
	if err != nil {
		return nil, err
	}
	return c.send(chosen, k, u.whole())
}

// sendBare makes a request without a body.
func (c *Client) sendBare(chosen *conn, k *Call) (*http.Response, error) {
	chosen.own = k.appendHead(chosen.own[:0], 0, c.asksGzip(k))
	return c.send(chosen, k, chosen.own)
}

// send makes a request that is complete.
func (c *Client) send(chosen *conn, k *Call, out []byte) (*http.Response, error) {
	chosen.out = out
	res, err := chosen.exchange(k)
	if _, stale := errors.AsType[*staleError](err); !stale {
		return res, err
	}
	if chosen, err = c.dial(k); err != nil {
		return nil, instead(err, k.Request)
	}
	chosen.out = out
	return chosen.exchange(k)
}

// upload makes a request whose body is read once there is a connection.
func (c *Client) upload(k *Call, u *upload) (*http.Response, error) {
	chosen, err := c.connect(k, false)
	if err != nil {
		c.uploads.put(u)
		if !errors.Is(err, errHandedOver) {
			k.Request.Body.Close()
		}
		return nil, instead(err, k.Request)
	}
	return c.uploadOver(chosen, k, u)
}

// uploadOver makes the request over this connection.
func (c *Client) uploadOver(chosen *conn, k *Call, u *upload) (*http.Response, error) {
	r := k.Request
	if isPrompt(r.Header) {
		return c.sendOn(chosen, k, u, u.data)
	}
	u.start()
	patience := c.patience()
	if u.probes {
		patience = max(patience, probeTime) // for the first byte
	}
	end, ended := u.await(patience)
	if !ended {
		return c.sendOn(chosen, k, u, end)
	}
	defer c.uploads.put(u)
	defer r.Body.Close()
	if u.isNone() {
		res, err := c.sendBare(chosen, k)
		return res, restored(err, nil)
	}
	if err := u.check(); err != nil {
		chosen.release(true)
		if ctx := r.Context(); ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	res, err := c.send(chosen, k, u.whole())
	return res, restored(err, u.buf.bytes[u.data:u.end])
}

// sendOn makes a request whose body has been read only up to end, a position in the buffer.
func (c *Client) sendOn(chosen *conn, k *Call, u *upload, end int) (*http.Response, error) {
	r := k.Request
	if u.length > 0 && int64(end-u.data) == u.length {
		end-- // the last byte is held back until the end of the body has been seen
	}
	chosen.out = u.first(end)
	chosen.rest = newSending(chosen, u, end, c.ExpectContinueTimeout > 0 && expectsContinue(r.Header))
	res, err := chosen.exchange(k)
	stale, ok := errors.AsType[*staleError](err)
	if !ok {
		return res, err
	}
	// As net/http's transport does, wait for the read that may be under way: GetBody cannot give back what it takes.
	select {
	case <-chosen.rest.over:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, stale.error
	}
	r = r.WithContext(r.Context())
	r.Body = body
	k = k.with(r)
	if chosen, err = c.dial(k); err != nil {
		if !errors.Is(err, errHandedOver) {
			body.Close()
		}
		return nil, instead(err, r)
	}
	u = c.uploads.take()
	u.prepare(k, bodyLength(r), c.asksGzip(k))
	return c.uploadOver(chosen, k, u) // a new connection is not stale
}

// patience returns how long to wait for the end of a body before its header is sent.
func (c *Client) patience() time.Duration { return cmp.Or(c.atOnce, defaultAtOnce) }

// connect returns a kept connection, or makes one. See [idle.take] for asks.
func (c *Client) connect(k *Call, asks bool) (*conn, error) {
	u := k.Request.URL
	if kept := c.idle.take(u.Host, c.IdleConnTimeout, time.Now(), asks); kept != nil {
		if (kept.under != nil) == (u.Scheme == "https") {
			return kept, nil
		}
		kept.close()
	}
	return c.dial(k)
}

// dial makes a connection.
func (c *Client) dial(k *Call) (made *conn, err error) {
	ctx, u, dial := k.Request.Context(), k.Request.URL, c.DialContext
	if k.Dialer != nil {
		dial = k.Dialer.DialContext
	}
	plain, err := dial(ctx, "tcp", u.Host)
	switch {
	case err != nil:
	case u.Scheme == "https":
		made, err = c.secure(ctx, plain, u)
	default:
		made = newConn(c, u.Host, plain)
	}
	if err != nil && !errors.Is(err, errHandedOver) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return made, err
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
