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

// may reports whether the client may be given one of that attempt's, and notes that it is.
func (i *informed) may(attempt int) bool {
	state := uint64(attempt) * informedStates
	return i.state.CompareAndSwap(state+nothingYet, state+hasHeard) || i.state.Load() == state+hasHeard
}

// end reports whether the client has not been given any, and sees to it that it will not be.
func (i *informed) end() bool {
	state := i.state.Load()
	return state%informedStates == nothingYet && i.state.CompareAndSwap(state, state+willNotHear)
}

// MayInform reports whether the client may be given an informational answer of the attempt of that number. It may be called by the
// transport's goroutines. There must not be two backends that such an answer could come from: there will be no copy of the request then.
func (x *Exchange) MayInform(attempt int) bool {
	if race := x.race.Load(); race != nil && !race.settle() {
		return false
	}
	return x.informed.may(attempt)
}

// watch has x learn how the answer ends. The body of one that switches protocols is a connection, and stays one.
func (x *Exchange) watch() {
	if lease, verdict, ok := x.course.Probe(); ok {
		x.probe = newStreamProbe(lease, verdict)
	}
	if res := x.res; res.StatusCode != http.StatusSwitchingProtocols && res.Body != nil && res.Body != http.NoBody {
		x.answer = answerBody{ReadCloser: res.Body, x: x}
		res.Body = &x.answer
	}
}

// answerBody is an answer's body that notices when it breaks off.
type answerBody struct {
	io.ReadCloser
	x        *Exchange // that it answers
	broken   bool
	complete bool // it has been read to its end
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.complete = b.complete || err == io.EOF
	if n > 0 && b.x.course.Call().Pending {
		b.x.course.Streams(time.Now())
		b.x.probe.note(true, false)
	}
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) && b.x.ctx.Err() == nil && !b.x.isClients() {
		b.broken = true
	}
	return n, err
}

// isClients reports whether what went wrong with the attempt is the client's doing.
func (x *Exchange) isClients() bool {
	body := x.front.Body()
	return body != nil && (x.body.failed() || body.Failure() != nil || body.Stalled(x.trail[x.current].Start, x.waited, time.Now()))
}

// probeStream is how long a stream must have lasted, and something have come in it, to be a probe that went well.
const probeStream = time.Second

// streamProbe is a probe of a half-open backend whose answer may go on for as long as the client likes. The lease is its own to judge
// until it is stopped. A nil streamProbe is of an attempt that is none.
type streamProbe struct {
	timer *time.Timer

	mu      sync.Mutex // guards what follows
	lease   *pool.Lease
	verdict pool.Verdict
	begun   bool // something has come
	lasting bool // it goes on for long enough
	judged  bool
	over    bool
}

func newStreamProbe(lease *pool.Lease, verdict pool.Verdict) *streamProbe {
	p := &streamProbe{lease: lease, verdict: verdict}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(probeStream, func() { p.note(false, true) })
	return p
}

// note notes what is new, and judges the probe when it has gone well.
func (p *streamProbe) note(begun, lasting bool) {
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

// stop returns whether the probe has been judged. From now on it is not.
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
