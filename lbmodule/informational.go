package lbmodule

import (
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
)

// informed is whether the client has been given an informational answer (1xx) of the current attempt's backend. After that no other
// backend is asked: the final answer would be another's. A state is the number of the attempt times three, and what there is to say
// of it: a transport that is not done with an earlier attempt is none of the current one.
type informed struct{ state atomic.Uint64 }

const (
	nothingYet = iota
	hasHeard
	willNotHear
	informedStates
)

// begin is called when the attempt of that number begins.
func (i *informed) begin(attempt int) { i.state.Store(uint64(attempt) * informedStates) }

// may tells whether the client may be given one of that attempt's, and notes that it is.
func (i *informed) may(attempt int) bool {
	state := uint64(attempt) * informedStates
	return i.state.CompareAndSwap(state+nothingYet, state+hasHeard) || i.state.Load() == state+hasHeard
}

// end tells whether the client has not been given any, and sees to it that it will not be.
func (i *informed) end() bool {
	state := i.state.Load()
	return state%informedStates == nothingYet && i.state.CompareAndSwap(state, state+willNotHear)
}

// notice1xx has q learn when the client is given an informational answer in the attempt that begins.
//
// reverse_proxy makes a trace for each attempt, so it is ours to change. One more around it would cost far more than the rest.
func (q *request) notice1xx(r *http.Request) {
	attempt := q.attempts
	q.informed.begin(attempt)
	q.race.Store(nil)
	trace := httptrace.ContextClientTrace(r.Context())
	if trace == nil || trace.Got1xxResponse == nil || q.h.retries.attempts == 1 && !q.h.Hedge.Enabled() {
		return
	}
	forward := trace.Got1xxResponse
	trace.Got1xxResponse = func(status int, header textproto.MIMEHeader) error {
		if c := q.race.Load(); c != nil && !c.settle() || !q.informed.may(attempt) {
			return nil
		}
		return forward(status, header)
	}
}
