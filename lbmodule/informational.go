package lbmodule

import (
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
)

// informed is whether the client has been given an informational answer (1xx) of the current attempt's backend. After that no other
// backend is asked: the final answer would be another's.
type informed struct{ state atomic.Uint32 }

const (
	nothingYet = iota
	hasHeard
	willNotHear
)

// may tells whether the client may be given one, and notes that it is.
func (i *informed) may() bool {
	return i.state.CompareAndSwap(nothingYet, hasHeard) || i.state.Load() == hasHeard
}

// end tells whether the client has not been given any, and sees to it that it will not be.
func (i *informed) end() bool { return i.state.CompareAndSwap(nothingYet, willNotHear) }

// notice1xx has q learn when the client is given an informational answer in the attempt that begins.
//
// reverse_proxy makes a trace for each attempt, so it is ours to change. One more around it would cost far more than the rest.
func (q *request) notice1xx(r *http.Request) {
	q.informed.state.Store(nothingYet)
	q.race.Store(nil)
	trace := httptrace.ContextClientTrace(r.Context())
	if trace == nil || trace.Got1xxResponse == nil || q.h.retries.attempts == 1 && !q.h.Hedge.enabled() {
		return
	}
	forward := trace.Got1xxResponse
	trace.Got1xxResponse = func(status int, header textproto.MIMEHeader) error {
		if c := q.race.Load(); c != nil && !c.settle() || !q.informed.may() {
			return nil
		}
		return forward(status, header)
	}
}
