package service

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/healthcheck/probe"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// answersAfter is a transport whose backends answer after that time, by their host and port; others never do.
type answersAfter map[string]time.Duration

func (a answersAfter) RoundTrip(r *http.Request) (*http.Response, error) {
	var answer <-chan time.Time
	if d, answers := a[r.URL.Host]; answers {
		answer = time.After(d)
	}
	select {
	case <-answer:
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// deaf is a transport that no timeout ends.
type deaf struct{ end <-chan struct{} }

func (d deaf) RoundTrip(*http.Request) (*http.Response, error) {
	<-d.end
	return nil, errors.New("the test is over")
}

// begin starts a checked load balancer with these backends in a Checker of its own: the time of a test may be before that of others.
func begin(t *testing.T, name, settings string, transport http.RoundTripper, addresses ...string) *Service {
	t.Helper()
	checker = probe.Checker{}
	t.Cleanup(func() { time.Sleep(time.Minute) }) // until what was written is in storage and its lock is given back
	p := checkWith(t, settings, `{}`)
	p.transport = transport
	s := open(t, name, Options{Check: p.check}, addresses...)
	s.probing = p
	s.Start()
	return s
}

// settles is how long it takes for s to settle, and whether it does.
func settles(s *Service) (took time.Duration, settled bool) {
	start := time.Now()
	settled = s.Settle(context.Background())
	return time.Since(start), settled
}

func TestSettle(t *testing.T) {
	for name, test := range map[string]struct {
		settings    string
		transport   http.RoundTripper
		least, most time.Duration
		settled     bool
		usable      int
	}{
		"at once":       {`{"timeout": "2s"}`, answersAfter{"a:1": 0, "b:1": 0}, 0, 10 * time.Millisecond, true, 2},
		"one late":      {`{"timeout": "2s"}`, answersAfter{"a:1": 0, "b:1": time.Second}, time.Second, 1010 * time.Millisecond, true, 2},
		"one never":     {`{"timeout": "2s"}`, answersAfter{"a:1": 0}, 2 * time.Second, 2010 * time.Millisecond, true, 1},
		"initially up":  {`{"timeout": "2s", "initial": "up"}`, answersAfter{"a:1": 0}, 0, 0, true, 2},
		"initial down":  {`{"timeout": "2s", "initial": "down"}`, answersAfter{}, 0, 0, true, 0},
		"never returns": {`{"timeout": "2s"}`, nil, 3 * time.Second, 3 * time.Second, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.transport == nil {
					over := make(chan struct{})
					defer close(over)
					test.transport = deaf{over}
				}
				s := begin(t, "settle "+name, test.settings, test.transport, "a:1", "b:1")
				took, settled := settles(s)
				if took < test.least || took > test.most || settled != test.settled {
					t.Errorf("settled %v after %v, want %v after %v to %v", settled, took, test.settled, test.least, test.most)
				}
				if n, _ := s.static.Load().view.Snapshot().Usable(); n != test.usable {
					t.Errorf("%d backends are usable, want %d", n, test.usable)
				}
				if took, _ := settles(s); test.settled && took != 0 {
					t.Errorf("it takes %v again", took)
				}
			})
		})
	}
}

// Backends that another load balancer of the pool has checked are known, however long their probes take now.
func TestSettleAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := answersAfter{"a:1": 0}
		before := begin(t, "settle-reload", `{"timeout": "2s"}`, begun, "a:1")
		settles(before)
		delete(begun, "a:1")
		after := open(t, "settle-reload", Options{Check: before.check}, "a:1")
		after.probing = before.probing
		after.Start()
		if took, settled := settles(after); took != 0 || !settled {
			t.Errorf("settled %v after %v, want at once", settled, took)
		}
	})
}

// edit changes the edits of the pool of s.
func edit(t *testing.T, s *Service, alter func(*overlay.Overlay) *overlay.Overlay) {
	t.Helper()
	if _, err := s.Manager().Change(func(e *manage.Edits, _ manage.Group) (*overlay.Overlay, error) { return alter(e.Overlay), nil }); err != nil {
		t.Error(err)
	}
}

// An edit that adds a backend meanwhile has that one waited for as well, and one that takes the last out ends the wait.
func TestSettleWithEdits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, "settle-edits", `{"timeout": "2s"}`, answersAfter{"a:1": time.Second, "c:1": time.Second}, "a:1")
		time.AfterFunc(900*time.Millisecond, func() {
			edit(t, s, func(o *overlay.Overlay) *overlay.Overlay { return o.Add("c:1", "", nil, overlay.Mark{}) })
		})
		if took, settled := settles(s); took < 1900*time.Millisecond || took > 1910*time.Millisecond || !settled {
			t.Errorf("settled %v after %v, want after 1.9 s", settled, took)
		}
		edit(t, s, func(o *overlay.Overlay) *overlay.Overlay { return o.Add("d:1", "", nil, overlay.Mark{}) })
		time.AfterFunc(time.Second, func() {
			edit(t, s, func(o *overlay.Overlay) *overlay.Overlay { return o.Remove("d:1", overlay.Mark{}) })
		})
		if took, settled := settles(s); took != time.Second || !settled {
			t.Errorf("settled %v after %v, want after 1 s", settled, took)
		}
	})
}

// lateSource is a source that answers late.
type lateSource struct {
	after time.Duration
	list  []*reverseproxy.Upstream
	err   error
}

func (l *lateSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	select {
	case <-time.After(l.after):
		return l.list, l.err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// A polled source is waited for, once, and then the first probes of the backends that it names.
func TestSettleDynamic(t *testing.T) {
	named := []*reverseproxy.Upstream{{Dial: "a:1"}}
	for name, test := range map[string]struct {
		source lateSource
		want   time.Duration
		usable int
	}{
		"answers":       {lateSource{after: time.Second, list: named}, 1500 * time.Millisecond, 1},
		"fails":         {lateSource{after: time.Second, err: errors.New("oh")}, time.Second, 0},
		"names nobody":  {lateSource{after: time.Second}, time.Second, 0},
		"never answers": {lateSource{after: time.Hour}, pollTimeout, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := begin(t, "settle-dynamic "+name, `{"timeout": "2s"}`, answersAfter{"a:1": 500 * time.Millisecond})
				s.dynamic = newDynamicSource(s, nil)
				s.dynamic.polled = []*polledSource{{source: &test.source, name: "late"}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go s.Poll(ctx)
				if took, settled := settles(s); took.Round(10*time.Millisecond) != test.want || !settled {
					t.Errorf("settled %v after %v, want after %v", settled, took, test.want)
				}
				usable := 0
				if set, _ := s.Shown(); set != nil {
					usable, _ = set.view.Snapshot().Usable()
				}
				if usable != test.usable {
					t.Errorf("%d backends are usable, want %d", usable, test.usable)
				}
			})
		})
	}
	t.Run("context ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := begin(t, "settle-dynamic-ends", `{}`, answersAfter{})
			s.dynamic = newDynamicSource(s, nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if start := time.Now(); s.Settle(ctx) || time.Since(start) != time.Second {
				t.Errorf("it has settled after %v", time.Since(start))
			}
		})
	})
}

// Without checks there is nothing to wait for.
func TestSettleUnchecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, "settle-unchecked", Options{Settings: new(config.Settings)}, "a:1")
		if took, settled := settles(s); took != 0 || !settled {
			t.Errorf("settled %v after %v, want at once", settled, took)
		}
	})
}
