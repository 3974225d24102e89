package lbmodule

import "sync/atomic"

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

// MayInform tells whether the client may be given an informational answer of the attempt of that number. There must not be two backends
// that such an answer could come from: there will be no copy of the request then.
func (q *request) MayInform(attempt int) bool {
	if c := q.race.Load(); c != nil && !c.settle() {
		return false
	}
	return q.informed.may(attempt)
}
