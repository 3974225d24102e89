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

// answerLimit is how much of an answer's body is read. Of a longer answer the rest is not wanted, and its connection is closed.
const answerLimit = 256 << 10 // bytes

// Options configure a [Mirror]. All fields are required.
type Options struct {
	Upstreams []string
	Share     float64 // of the requests that can be copied
	Timeout   time.Duration
	Most      int // copies in flight
	Counts    *pool.Mirrored
	Timed     func(error) bool // whether an error is that of a timeout
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

// Context is what the contexts of all copies must be made from. It has no values.
func (m *Mirror) Context() context.Context { return m.ctx }

// Close gives up the copies in flight, and does not wait for that.
func (m *Mirror) Close() { m.end() }

// Draws reports whether the next of the requests that can be copied is.
func (m *Mirror) Draws() bool { return m.sample.next() }

// Choose chooses the upstream of a copy, by its position. ok is false if there must be no copy, because too many are in flight, or no
// upstream answers. Otherwise [Mirror.Send] or [Mirror.Abandon] must follow.
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

// Abandon ends a copy that cannot be made.
func (m *Mirror) Abandon() { m.o.Counts.End(pool.MirrorDropped) }

// Send sends a copy to the upstream at that position. It does not wait. Nobody else may use r, whose context must be made from [Mirror.Context].
// Each copy has a goroutine, so that there are as many of them as copies may be in flight.
func (m *Mirror) Send(at int, r *http.Request, by http.RoundTripper) { go m.carry(at, r, by) }

// carry sends a copy, and notes what became of it.
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
	m.o.Counts.End(outcome) // last, so that whoever sees no copies in flight sees everything else, too
}

// errNotInTime is the error of a copy that was given up.
var errNotInTime = errors.New("no whole answer within the mirror's timeout")

// exchange sends a copy and reads its answer.
func (m *Mirror) exchange(r *http.Request, by http.RoundTripper) (outcome pool.MirrorOutcome, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), m.o.Timeout)
	defer cancel()
	defer func() {
		// Nothing else recovers on this goroutine, and the process must go on.
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
