package exchange

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// informed records whether the client has received an informational answer (1xx) of the current attempt. If it has, no other attempt
// follows, because the final answer would come from another backend. The state is three times the number of the attempt, plus one of the
// constants below: with the number in it, a transport that still works on an earlier attempt cannot change the current one's.
type informed struct{ state atomic.Uint64 }

const (
	noneInformed = iota
	clientInformed
	informingEnded
	informedStates
)

// begin is called when the attempt of that number begins.
func (i *informed) begin(attempt int) { i.state.Store(uint64(attempt) * informedStates) }

// is reports whether the attempt of that number is the current one.
func (i *informed) is(attempt int) bool { return i.state.Load()/informedStates == uint64(attempt) }

// may reports whether an informational answer of that attempt may be passed to the client, and if so records that it is.
func (i *informed) may(attempt int) bool {
	state := uint64(attempt) * informedStates
	return i.state.CompareAndSwap(state+noneInformed, state+clientInformed) || i.state.Load() == state+clientInformed
}

// end reports whether the client has received no informational answer. If so, none is passed on from then on.
func (i *informed) end() bool {
	state := i.state.Load()
	return state%informedStates == noneInformed && i.state.CompareAndSwap(state, state+informingEnded)
}

// MayInform implements [Inform]. The transport's goroutines may call it. A client that has an informational answer must get the final one
// from the same backend, so no copy of the request is sent after that.
func (x *Exchange) MayInform(attempt int) bool {
	if race := x.race.Load(); race != nil && !race.forbidCopy() {
		return false
	}
	return x.informed.is(attempt) && x.moving.mayAnswer() && x.informed.may(attempt)
}

// watch wraps the body of the answer, to see how it ends. The body of an answer that switches protocols is a connection and is not wrapped.
func (x *Exchange) watch() {
	if lease, verdict, ok := x.course.Probe(); ok {
		x.probe = newStreamProbe(lease, verdict)
	}
	if res := x.res; res.StatusCode != http.StatusSwitchingProtocols && res.Body != nil && res.Body != http.NoBody {
		x.answer = answerBody{ReadCloser: res.Body, x: x, traffic: x.Traffic()}
		res.Body = &x.answer
	}
}

// answerBody is an answer's body that records how it ends.
type answerBody struct {
	io.ReadCloser
	x        *Exchange
	traffic  *pool.Traffic // of the backend
	broken   bool
	complete bool // it has been read to its end
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.note(int64(n), err)
	return n, err
}

// IsReady reports whether the next Read returns without waiting, as far as the body knows.
func (b *answerBody) IsReady() bool {
	of, ok := b.ReadCloser.(interface{ IsReady() bool })
	return ok && of.IsReady()
}

// splicer is a body whose bytes the kernel can move, such as the engine's.
type splicer interface {
	Splice(limit int64, move func(io.Reader) (int64, error)) (int64, error)
}

// Splice calls move to pass on the next bytes, up to limit. It returns [errors.ErrUnsupported] if the body cannot do that.
func (b *answerBody) Splice(limit int64, move func(io.Reader) (int64, error)) (int64, error) {
	from, ok := b.ReadCloser.(splicer)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	n, err := from.Splice(limit, move)
	if !errors.Is(err, errors.ErrUnsupported) {
		b.note(n, err)
	}
	return n, err
}

// note records the result of a read.
func (b *answerBody) note(n int64, err error) {
	if n > 0 {
		b.traffic.CountOut(int(n))
	}
	end := err == io.EOF //nolint:errorlint // an error that wraps EOF is not the end
	b.complete = b.complete || end
	if n > 0 && b.x.course.Call().Pending {
		b.x.course.Streams(time.Now())
		b.x.probe.update(true, false)
	}
	if err != nil && !end && !errors.Is(err, context.Canceled) && b.x.ctx.Err() == nil && !b.x.clientAtFault() {
		b.broken = true
	}
}

// clientAtFault reports whether the client's body is the reason why the attempt failed.
func (x *Exchange) clientAtFault() bool {
	body := x.front.Body()
	return body != nil && (x.body.failed() || body.Failure() != nil || body.Stalled(x.trail[x.current].Start, x.waited, time.Now()))
}

// probeStream is how long a stream with data must have lasted to be a successful probe.
const probeStream = time.Second

// streamProbe is a probe of a half-open backend by a stream, whose duration depends on the client. Until stop is called, only the
// streamProbe judges the lease. A nil streamProbe does nothing.
type streamProbe struct {
	timer *time.Timer

	mu      sync.Mutex // guards the fields below
	lease   *pool.Lease
	verdict pool.Verdict
	begun   bool // data has arrived
	lasting bool // it has lasted for probeStream
	judged  bool
	over    bool
}

func newStreamProbe(lease *pool.Lease, verdict pool.Verdict) *streamProbe {
	p := &streamProbe{lease: lease, verdict: verdict}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(probeStream, func() { p.update(false, true) })
	return p
}

// update records progress of the stream, and judges the probe once it is successful.
func (p *streamProbe) update(begun, lasting bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun, p.lasting = p.begun || begun, p.lasting || lasting
	if p.begun && p.lasting && !p.judged && !p.over {
		p.judged = true
		p.lease.Judge(p.verdict, time.Now())
	}
}

// stop keeps the probe from being judged from then on, and reports whether it has been judged.
func (p *streamProbe) stop() bool {
	if p == nil {
		return false
	}
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	return p.judged
}
