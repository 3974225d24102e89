package exchange

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
)

// ErrGone is the error of an attempt that waited for an answer when its backend was found to be gone, and was moved to another one.
var ErrGone error = &goneError{}

type goneError struct{ timeoutError }

func (*goneError) Error() string { return "backend was found to be gone before it answered" }

// Breakable is an [Outgoing.Back] whose round trip another goroutine can break off.
type Breakable interface {
	http.RoundTripper

	// Arm is called before RoundTrip if the other methods may be called. checked says whether the backend has active checks: one without them
	// is rarely found to be gone, so breaking off its round trips should cost little to prepare.
	Arm(checked bool)
	// Waits reports whether the request has been given to a connection. The result may be out of date.
	Waits() bool
	// BreakOff makes RoundTrip return with some error, if it has not returned yet.
	BreakOff(err error)
}

// moving is the state for moving the current attempt to another backend. An attempt that is not moved pays two atomic operations.
type moving struct {
	state atomic.Uint32
	back  Breakable
	to    *course.Choice // nil unless the attempt is moved; the goroutine that set the state to beingMoved owns it until Settle
}

// The values of moving.state.
const (
	stays = iota
	mayMove
	beingMoved
)

// beginMoving allows moving the attempt if the rules do. A request with a body is never moved, because the body may be partly sent, and may
// not be kept.
func (x *Exchange) beginMoving(o *Outgoing) {
	if o.Request.Body != nil || !x.course.MayMove() {
		return
	}
	back, ok := o.Back.(Breakable)
	if !ok {
		return
	}
	back.Arm(x.course.Checked())
	x.moving.back = back
	x.moving.state.Store(mayMove)
}

// MoveAway implements [pool.Mover]. It breaks a request off only after it has reserved a slot elsewhere.
func (x *Exchange) MoveAway(now time.Time) bool {
	m := &x.moving
	if m.state.Load() != mayMove || !m.back.Waits() || !m.state.CompareAndSwap(mayMove, beingMoved) {
		return false
	}
	to, ok := x.course.Move(now)
	if !ok {
		m.state.CompareAndSwap(beingMoved, mayMove)
		return false
	}
	m.to = &to
	m.back.BreakOff(ErrGone)
	return true
}

// endMoving keeps the attempt from being moved from then on. It returns the backend that it was moved to; nil if it was not moved.
func (x *Exchange) endMoving() (to *course.Choice) {
	m := &x.moving
	if m.state.Load() == stays || m.state.Swap(stays) != beingMoved {
		return nil
	}
	x.Live.Settle()
	to, m.to = m.to, nil
	return to
}

// mayAnswer reports whether a part of the attempt's answer may be passed to the client. If so, it keeps the attempt from being moved.
func (m *moving) mayAnswer() bool {
	return m.state.CompareAndSwap(mayMove, stays) || m.state.Load() == stays
}
