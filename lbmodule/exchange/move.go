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

	// Arm is called before RoundTrip if the other methods may be called. checked says whether the backend is checked: one that is not is
	// rarely found to be gone, and it is not worth much to be able to break the round trip off.
	Arm(checked bool)
	// Waits reports whether the request has been given to a connection. It may be out of date.
	Waits() bool
	// BreakOff makes RoundTrip return, if it has not, with any error.
	BreakOff(err error)
}

// moving is what may move the current attempt to another backend. While it waits, that costs two atomic operations.
type moving struct {
	state atomic.Uint32
	back  Breakable
	to    *course.Choice // nil unless the attempt is moved; the goroutine that has made the state beingMoved owns it until Settle
}

// The values of moving.state.
const (
	stays = iota
	mayMove
	beingMoved
)

// beginMoving lets the attempt be moved if it may be. One with a body stays: the body may not have been sent, or not be kept.
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

// MoveAway implements [pool.Mover]. A request is broken off only when there is a slot for it elsewhere.
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

// endMoving keeps the attempt from being moved from now on, and returns where it was moved to; nil if it was not.
func (x *Exchange) endMoving() (to *course.Choice) {
	m := &x.moving
	if m.state.Load() == stays || m.state.Swap(stays) != beingMoved {
		return nil
	}
	x.Live.Settle()
	to, m.to = m.to, nil
	return to
}

// mayAnswer reports whether the client may be given a part of the attempt's answer, and keeps the attempt from being moved if so.
func (m *moving) mayAnswer() bool {
	return m.state.CompareAndSwap(mayMove, stays) || m.state.Load() == stays
}
