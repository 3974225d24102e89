package stock

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
)

// Informer receives informational answers (1xx).
type Informer interface {
	// Inform is called when an informational answer arrives. Several goroutines may call it, also after RoundTrip has returned.
	Inform(status int, header textproto.MIMEHeader)
}

// Trip carries one request to a target, over the engine or the configured transport. It implements [http.RoundTripper].
type Trip struct {
	transport *Transport
	target    *Target
	informer  Informer
	request   *http.Request // that its client sent; nil if it is a copy
	direct    bool
}

// Init makes t the trip of r to that target. informer receives the informational answers. A trip of a copy has neither.
func (t *Trip) Init(transport *Transport, to *Target, r *http.Request, informer Informer) {
	*t = Trip{transport: transport, target: to, request: r, informer: informer}
}

// Direct reports whether the request went over the engine, which keeps nothing of it once the body of its answer is closed.
func (t *Trip) Direct() bool { return t.direct }

// Dialed returns the address that a request which that back carries is sent to, "" if it is not known.
func Dialed(back http.RoundTripper) string {
	if t, ok := back.(*Trip); ok {
		return t.target.Dial.Address
	}
	return ""
}

// RoundTrip implements [http.RoundTripper].
func (t *Trip) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.transport.roundTrip(t, r)
}

// tripContext is the context of a request over the configured transport: it holds the address to connect to, and the trace that receives
// informational answers.
type tripContext struct {
	context.Context
	dial    any
	trace   *httptrace.ClientTrace
	patient bool
}

// Patient implements [engine.Patient].
func (c *tripContext) Patient() bool { return c.patient }

// into returns the context of r, extended so that transports connect to the trip's target. If nobody has replaced the context of the client's
// request, it ends when the client leaves, and the engine may notice that late.
func (t *Trip) into(r *http.Request) context.Context {
	ctx := r.Context()
	c := &tripContext{Context: ctx, dial: t.target.key, patient: r == t.request}
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

// traceKey is the key of a trace in a context. It lets a trip do without the context that [httptrace.WithClientTrace] would allocate.
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
