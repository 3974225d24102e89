package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const ms = time.Millisecond

// target is the address of a backend, which is all that there is of it here.
type target string

func (t target) Address() string { return string(t) }

// list is a list of members over a view of the lab's pool.
type list struct {
	view       *pool.View
	addresses  []string
	superseded chan struct{}

	mu    sync.Mutex
	stays int
}

func (l *list) View() *pool.View                            { return l.view }
func (l *list) Target(position int) course.Target           { return target(l.addresses[position]) }
func (l *list) Find(address string) int                     { return slices.Index(l.addresses, address) }
func (l *list) Superseded() (first, second <-chan struct{}) { return l.superseded, nil }
func (l *list) Stay()                                       { l.count(1) }
func (l *list) Leave()                                      { l.count(-1) }

func (l *list) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stays += n
}

// lab is what exchanges are tried in: a pool, a source that names its members, a back that does what its scripts say, and an
// observer. Nothing may be left of any exchange when it ends.
type lab struct {
	t        testing.TB
	settings pool.Settings
	backends []pool.Backend
	rules    course.Rules
	plan     Plan
	failure  error // of the source
	blind    bool  // the observer keeps nothing of attempts

	pool  *pool.Pool
	lists []*list

	mu      sync.Mutex // guards what follows
	scripts map[string][]script
	sent    []string // backends that were asked, with the bodies
	answers []*trackedBody
	spans   []*span
	chosen  []string
	panics  []any
	ctx     context.Context // of the request that runs, or ran last
}

// newLab returns one with backends a:1, b:1 and so on, which are picked in that order, under the rules that a load balancer has by default.
func newLab(t testing.TB, backends int) *lab {
	l := &lab{t: t, pool: new(pool.Registry).Acquire("pool"), scripts: make(map[string][]script)}
	for i := range backends {
		l.backends = append(l.backends, pool.Backend{Address: string(rune('a'+i)) + ":1", Weight: 1})
	}
	l.settings = pool.Settings{Policy: balance.First{}}
	l.rules = course.Rules{Hold: 2 * time.Second, Retry: course.RetryRules{Attempts: 2, Budget: pool.BudgetSettings{Ratio: 0.2, PerSecond: 10}}}
	for _, reason := range []pool.RetryReason{pool.RetryConnect, pool.RetryReset, pool.RetryTimeout, pool.RetryStatus} {
		l.rules.Retry.On[reason] = true
	}
	for _, status := range []string{"502", "503", "504", "grpc:unavailable"} {
		l.rules.Retry.Statuses.Add(status)
		l.rules.Failures.Add(status)
	}
	l.plan = Plan{
		Rules: &l.rules, Pool: l.pool, Observer: l, Kind: l.Kind, BodyLimit: 1 << 10, SmallBody: 1 << 4,
		Panicked: func(value any, _ []byte) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.panics = append(l.panics, value)
		},
	}
	return l
}

func newStock(duration, interval time.Duration) *course.StockRetries {
	return &course.StockRetries{Duration: duration, Interval: interval, Answers: true}
}

// open has the source name another list, of the backends as they are now.
func (l *lab) open() *list {
	l.mu.Lock()
	backends := l.backends
	l.mu.Unlock()
	next := &list{view: l.pool.Open(backends, l.settings), superseded: make(chan struct{})}
	for _, b := range backends {
		next.addresses = append(next.addresses, b.Address)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.lists); n > 0 {
		close(l.lists[n-1].superseded)
	}
	l.lists = append(l.lists, next)
	return next
}

func (l *lab) current() *list {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lists[len(l.lists)-1]
}

func (l *lab) context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx
}

// Members implements [course.Source].
func (l *lab) Members(bool) (course.Members, error) { return l.current(), l.failure }

// Quiet implements [course.Source].
func (l *lab) Quiet() bool { return false }

// script has the backs of the pool do what they do: the last of an address for all further attempts there.
func (l *lab) script(address string, scripts ...script) { l.scripts[address] = scripts }

// RoundTrip implements [http.RoundTripper].
func (l *lab) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.Host
	l.mu.Lock()
	l.sent = append(l.sent, address)
	scripts := l.scripts[address]
	if len(scripts) == 0 {
		l.mu.Unlock()
		panic("no script for " + address)
	}
	if len(scripts) > 1 {
		l.scripts[address] = scripts[1:]
	}
	l.mu.Unlock()
	res, err := scripts[0](r)
	if err != nil {
		return nil, err
	}
	if res.Body != nil && res.Body != http.NoBody {
		body := &trackedBody{ReadCloser: res.Body, of: fmt.Sprintf("%d of %s", res.StatusCode, address)}
		res.Body = body
		l.mu.Lock()
		l.answers = append(l.answers, body)
		l.mu.Unlock()
	}
	return res, nil
}

// Kind classifies the errors of RoundTrip.
func (l *lab) Kind(err error) Failure {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errDescriptors):
		return Failure{Kind: course.NotConnected, NoDescriptors: true}
	case errors.Is(err, errRefused):
		return Failure{Kind: course.NotConnected, Unreachable: true}
	case errors.As(err, &timeout) && timeout.Timeout():
		return Failure{Kind: course.TimedOut}
	default:
		return Failure{Kind: course.Broken}
	}
}

// span is what the observer keeps of an attempt.
type span struct {
	begun  string
	ended  int
	status int
	err    error
}

// Chosen implements [Observer].
func (l *lab) Chosen(x *Exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chosen = append(l.chosen, x.Course().Choice().Target.Address())
}

// Begin implements [Observer].
func (l *lab) Begin(_ *Exchange, _ *Outgoing, address string, others int, reason pool.RetryReason, _ time.Time) Span {
	if l.blind {
		return nil
	}
	s := &span{begun: fmt.Sprintf("%s after %d", address, others)}
	if others > 0 {
		s.begun += " for " + reason.String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spans = append(l.spans, s)
	return s
}

// End implements [Observer].
func (l *lab) End(s Span, status int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := s.(*span)
	of.ended++
	of.status, of.err = status, err
}

// told returns the observer's calls, in the order in which attempts began.
func (l *lab) told() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, s := range l.spans {
		all = append(all, fmt.Sprintf("%s: %d %v", s.begun, s.status, s.err))
	}
	return strings.Join(all, "; ")
}

// trackedBody is an answer's body that must be closed.
type trackedBody struct {
	io.ReadCloser
	of     string
	mu     sync.Mutex
	closed int
}

func (b *trackedBody) Close() error {
	b.mu.Lock()
	b.closed++
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// close checks that nothing is left of what was tried. Its caller has waited for all goroutines.
func (l *lab) close() {
	l.t.Helper()
	for _, m := range l.pool.Members() {
		if n := m.InFlight(); n != 0 {
			l.t.Errorf("%s has %d requests in flight in the end", m.Address(), n)
		}
	}
	if n := l.pool.QueueLength(); n != 0 {
		l.t.Errorf("%d requests are in the queue in the end", n)
	}
	if n := l.pool.Holding(); n != 0 {
		l.t.Errorf("%d requests wait for a backend in the end", n)
	}
	if live := l.pool.Live.List(10, ""); len(live) != 0 {
		l.t.Errorf("requests are taken for being served in the end: %+v", live)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, members := range l.lists {
		if members.stays != 0 {
			l.t.Errorf("%d requests keep members alive in the end", members.stays)
		}
		members.view.Close()
	}
	for _, a := range l.answers {
		if a.closed == 0 {
			l.t.Errorf("the answer %s is left open", a.of)
		}
	}
	for _, s := range l.spans {
		if s.ended != 1 {
			l.t.Errorf("the end of the attempt at %s was reported %d times", s.begun, s.ended)
		}
	}
}
