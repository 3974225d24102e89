package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// answerLimit is how much of an answer's body is read. If it is longer, the connection is closed.
const answerLimit = 256 << 10 // bytes

// Options configure a [Mirror]. All fields are required.
type Options struct {
	Upstreams []string
	Share     float64 // of the copyable requests
	Timeout   time.Duration
	Most      int // maximum of copies in flight
	Counts    *pool.Mirrored
	Timed     func(error) bool // reports whether an error is a timeout
	Logger    *zap.Logger
}

// Mirror sends copies of requests. It is safe for concurrent use.
type Mirror struct {
	o      Options
	ctx    context.Context // of all copies
	end    context.CancelFunc
	sample sample
	turn   atomic.Uint64
	gates  []gate // of the upstreams
}

// New returns a mirror. [Mirror.Close] must be called.
func New(o Options) *Mirror {
	m := &Mirror{o: o, gates: make([]gate, len(o.Upstreams))}
	m.ctx, m.end = context.WithCancel(context.Background())
	m.sample.init(o.Share)
	return m
}

// Context returns the parent of the contexts of all copies. It has no values.
func (m *Mirror) Context() context.Context { return m.ctx }

// Close cancels the copies in flight, and does not wait for them.
func (m *Mirror) Close() { m.end() }

// Draws reports whether the next copyable request is copied.
func (m *Mirror) Draws() bool { return m.sample.next() }

// Choose chooses the upstream of a copy, by its index. ok is false if no copy may be sent, because too many are in flight or no upstream
// answers. If it is true, the caller must call [Mirror.Send] or [Mirror.Abandon].
func (m *Mirror) Choose(now time.Time) (at int, ok bool) {
	if !m.o.Counts.Begin(m.o.Most) {
		return 0, false
	}
	n := len(m.gates)
	first := int(m.turn.Add(1) % uint64(n))
	for i := range n {
		if at = (first + i) % n; m.gates[at].admits(now) {
			return at, true
		}
	}
	m.Abandon()
	return 0, false
}

// Abandon ends a copy that cannot be sent.
func (m *Mirror) Abandon() { m.o.Counts.End(pool.MirrorDropped) }

// Send sends a copy to the upstream with that index, and does not wait. The caller must not use r any more, whose context must be derived
// from [Mirror.Context]. Each copy has a goroutine, so their number is limited by that of copies in flight.
func (m *Mirror) Send(at int, r *http.Request, by http.RoundTripper) { go m.carry(at, r, by) }

// carry sends a copy, and records the outcome.
func (m *Mirror) carry(at int, r *http.Request, by http.RoundTripper) {
	outcome, err := m.exchange(r, by)
	now := time.Now()
	switch gate := &m.gates[at]; outcome {
	case pool.MirrorSuccess, pool.MirrorServerError:
		if gate.answered() {
			m.o.Logger.Info("mirror answers again", zap.String("mirror", m.o.Upstreams[at]))
		}
	case pool.MirrorFailure, pool.MirrorTimeout:
		if gate.failed(now) {
			m.o.Logger.Warn("mirror does not answer", zap.String("mirror", m.o.Upstreams[at]), zap.Error(err))
		}
	}
	m.o.Counts.End(outcome) // last, so that an observer that sees no copies in flight sees all other results
}

// errNotInTime is the error of a copy that was canceled.
var errNotInTime = errors.New("no whole answer within the mirror's timeout")

// exchange sends a copy and reads its answer.
func (m *Mirror) exchange(r *http.Request, by http.RoundTripper) (outcome pool.MirrorOutcome, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), m.o.Timeout)
	defer cancel()
	defer func() {
		// No other function recovers on this goroutine, and a panic would end the process.
		if p := recover(); p != nil {
			m.o.Logger.Error("copy for mirror panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			outcome, err = pool.MirrorFailure, fmt.Errorf("panic: %v", p)
		}
	}()
	res, err := by.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return m.failure(ctx, err)
	}
	m.o.Counts.Took.Add(time.Since(began))
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, answerLimit)); err != nil {
		return m.failure(ctx, err)
	}
	if res.StatusCode >= http.StatusInternalServerError {
		return pool.MirrorServerError, nil
	}
	return pool.MirrorSuccess, nil
}

// failure classifies an error.
func (m *Mirror) failure(ctx context.Context, err error) (pool.MirrorOutcome, error) {
	switch {
	case m.ctx.Err() != nil:
		return pool.MirrorDropped, err
	case ctx.Err() != nil:
		return pool.MirrorTimeout, errNotInTime
	case m.o.Timed(err):
		return pool.MirrorTimeout, err
	default:
		return pool.MirrorFailure, err
	}
}
