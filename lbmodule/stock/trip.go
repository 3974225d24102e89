package stock

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"

	"github.com/ballastlb/ballast/lbmodule/engine"
)

// Trip carries one request to a target, over the engine or the configured transport. It implements [http.RoundTripper].
type Trip struct {
	transport *Transport
	target    *Target
	informer  engine.Informer
	request   *http.Request // the request as the front made it; nil for a copy
	dial      dialFunc      // of the engine
	direct    bool
	armed     bool        // the trip may be broken off, even over the configured transport
	mirror    bool        // the trip is not an attempt, and not counted as one
	head      engine.Head // the head of the request; nil if request has the fields
	call      engine.Call

	mu     sync.Mutex              // guards cancel
	cancel context.CancelCauseFunc // ends the request over the configured transport; nil if it does not go there, or is not armed
}

// Head composes a request's head.
type Head = engine.Head

// Lines are the fields of an answer's header.
type Lines = engine.Lines

// DialContext implements [engine.Dialer].
func (t *Trip) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return t.dial(&tripContext{Context: ctx, dial: t.target.dial}, network, address)
}

// Init initializes t as the trip of r to that target. informer receives the informational answers. Several goroutines may call informer,
// even after RoundTrip has returned. For a copy made by hedging, r and informer are nil.
func (t *Trip) Init(transport *Transport, to *Target, r *http.Request, informer engine.Informer) {
	*t = Trip{transport: transport, target: to, request: r, informer: informer}
}

// InitMirror initializes t as the trip of a copy to a mirror.
func (t *Trip) InitMirror(transport *Transport, to *Target) {
	*t = Trip{transport: transport, target: to, mirror: true}
}

// InitHead is Init for a request whose head is head, and whose answer keeps its lines. A configured transport without an engine cannot make
// it: see [Transport.TakesHeads]. t may have been the trip of another such request, to which nothing refers any more.
func (t *Trip) InitHead(transport *Transport, to *Target, r *http.Request, informer engine.Informer, head Head) {
	t.call.Reset()
	t.transport, t.target, t.request, t.informer, t.head, t.direct, t.armed = transport, to, r, informer, head, false, false
}

// Lines returns the header of the answer to a request that has a head.
func (t *Trip) Lines() *Lines { return t.call.Lines() }

// Direct reports whether the request went over the engine, which keeps nothing of it once the body of its answer is closed.
func (t *Trip) Direct() bool { return t.direct }

// Dialed returns the address to which back sends its request; "" if that is not known.
func Dialed(back http.RoundTripper) string {
	if t, ok := back.(*Trip); ok {
		return t.target.Dial().Address
	}
	return ""
}

// RoundTrip implements [http.RoundTripper].
func (t *Trip) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.transport.roundTrip(t, r)
}

// Arm makes it possible to break the trip off. Over the configured transport, where that takes memory, it does so only if checked is set.
// It must be called before RoundTrip.
func (t *Trip) Arm(checked bool) { t.armed = checked }

// Waits reports whether the request has been given to a connection, or to the configured transport.
func (t *Trip) Waits() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cancel != nil || t.call.Waits()
}

// BreakOff makes RoundTrip fail, if it has not returned. Another goroutine may call it.
func (t *Trip) BreakOff(err error) {
	t.call.BreakOff()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel(err)
	}
}

// breakable returns ctx, extended so that BreakOff ends it if the trip is armed. It needs no cancel function, because it ends with its parent
// at the latest.
func (t *Trip) breakable(ctx context.Context) context.Context {
	// Transports other than Caddy's `http` may continue after the end of the context, as that for FastCGI does.
	if !t.armed || !t.transport.IsCaddys() {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = cancel
	return ctx
}

// tripContext is the context of a request over the configured transport: it holds the address to connect to, and the trace that receives
// informational answers.
type tripContext struct {
	context.Context
	dial  any
	trace *httptrace.ClientTrace
}

// into returns ctx, extended so that transports connect to the trip's target and report informational answers.
func (t *Trip) into(ctx context.Context) context.Context {
	c := &tripContext{Context: t.breakable(ctx), dial: t.target.dial}
	if t.informer != nil {
		c.trace = &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			t.informer.Inform(status, header)
			return nil
		}}
		if httptrace.ContextClientTrace(ctx) != nil {
			httptrace.WithClientTrace(ctx, c.trace) // makes it call the traces of the client's request, too
		}
	}
	return c
}

// Value implements [context.Context].
func (c *tripContext) Value(key any) any {
	switch key {
	case dialInfoKey:
		return c.dial
	case traceKey:
		if c.trace != nil {
			return c.trace
		}
	}
	return c.Context.Value(key)
}

// traceKey is the key of a trace in a context. It saves a trip the context that [httptrace.WithClientTrace] would allocate.
var traceKey = func() any {
	var asked keyCatcher
	httptrace.ContextClientTrace(&asked)
	return asked.key
}()

// keyCatcher is a context that records the last key it was asked for.
type keyCatcher struct {
	context.Context
	key any
}

func (c *keyCatcher) Value(key any) any {
	c.key = key
	return nil
}
