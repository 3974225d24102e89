package exchange

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestBodies tries what happens to a request's body.
func TestBodies(t *testing.T) {
	keeps := func(l *lab) { l.plan.BodyLimit, l.plan.SmallBody = 5, 0 }
	goes(t, map[string]*way{
		"sent once": {
			a: []script{echoes(5*ms, 200)}, front: front{body: newBody(0, nil, "he", "llo")}, seen: `200, "hello"`, took: 5 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood, bytesA: &[2]uint64{5, 5},
		},
		"replayed": {
			a: []script{resets(ms)}, b: []script{echoes(ms, 200)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo")},
			seen: `200, "hello"`, took: 2 * ms, told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"replayed after a part of it": {
			a: []script{fails(ms, 3, errReset)}, b: []script{echoes(ms, 200)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo")},
			seen: `200, "hello"`, took: 2 * ms, told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
			bytesA: &[2]uint64{3, 0},
		},
		"announced to be too large to be replayed": {
			a: []script{fails(ms, 1, errReset)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo!")},
			seen: "failed: connection reset", took: ms, told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
		"too large to be replayed, which shows too late": {
			a: []script{resets(ms)}, rules: keeps, front: front{body: unannounced(newBody(0, nil, "he", "llo!"))},
			seen: "failed: connection reset", took: ms, told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
		"too large, but nothing was sent": {
			a: []script{refuses(ms)}, b: []script{echoes(ms, 200)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo!")},
			seen: `200, "hello!"`, took: 2 * ms, told: "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 200 <nil>", countA: failedAgain,
		},
		"small, and read before there was no connection": {
			a: []script{fails(ms, 5, errRefused)}, b: []script{echoes(ms, 200)}, rules: func(l *lab) { l.plan.BodyLimit, l.plan.SmallBody = 0, 5 },
			front: front{body: newBody(0, nil, "he", "llo"), unsafe: true}, seen: `200, "hello"`, took: 2 * ms,
			told: "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 200 <nil>", countA: failedAgain, bytesA: &[2]uint64{0, 0},
		},
		"collected, and replayed": {
			a: []script{resets(ms)}, b: []script{echoes(ms, 200)}, rules: func(l *lab) { l.plan.BodyLimit = 0 },
			front: front{body: newBody(0, nil, "a large ", "body"), whole: true}, seen: `200, "a large body"`, took: 2 * ms,
			told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"broken off by the client": {
			a: []script{says(ms, 200)}, front: front{body: newBody(10*ms, io.ErrUnexpectedEOF, "he")}, seen: "failed: unexpected EOF", took: 20 * ms,
			told: "a:1 after 0: 0 unexpected EOF", countA: onceIgnored,
		},
		"shorter than announced": {
			a: []script{says(ms, 200)}, front: front{body: &clientBody{parts: []string{"he"}, length: 5}}, seen: "failed: unexpected EOF",
			told: "a:1 after 0: 0 unexpected EOF", countA: onceIgnored,
		},
		"so slow that the backend gives up": {
			a: []script{fails(0, 6, errReset)}, front: front{body: newBody(300*ms, nil, "he", "llo", "!", "more"), unsafe: true},
			seen: "failed: connection reset", took: 900 * ms, told: "a:1 after 0: 0 connection reset", countA: onceIgnored,
		},
		"slow, but not the reason": {
			a: []script{fails(time.Second, 6, errReset)}, front: front{body: newBody(100*ms, nil, "he", "llo", "!", "more"), unsafe: true},
			seen: "failed: connection reset", took: 1300 * ms, told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
	})
}

func unannounced(b *clientBody) *clientBody {
	b.length = -1
	return b
}

// TestBodyBrokenBefore has a front buffer a body that breaks off: no backend is asked, but the request is counted.
func TestBodyBrokenBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.script("a:1", says(0, 200))
		earned := pool.BudgetSettings{Ratio: 1}
		before := l.pool.RetryBudget(earned, time.Now())
		f := &front{body: &clientBody{length: 5, broken: io.ErrUnexpectedEOF}}
		o := l.run(t.Context(), f)
		if got := f.seen(); got != "failed: unexpected EOF" || o.trail() != "" {
			t.Errorf("the client sees %s; attempts: %s", got, o.trail())
		}
		if after := l.pool.RetryBudget(earned, time.Now()); after != before+1 {
			t.Errorf("the budget for retries went from %v to %v, want one request more", before, after)
		}
		l.close()
	})
}

// TestBodyGivenBack makes an exchange fail, after which another handler may read the body: it gets all of it, or none.
func TestBodyGivenBack(t *testing.T) {
	for name, test := range map[string]struct {
		read   script
		limit  int64
		unread string
		lost   bool
	}{
		"not read":           {refuses(ms), 0, "", false},
		"kept":               {fails(ms, 3, errReset), 9, "hel", false},
		"not kept":           {fails(ms, 3, errReset), 0, "", true},
		"more than was kept": {fails(ms, 9, errReset), 7, "", true},
		"still being read": {func(r *http.Request) (*http.Response, error) {
			go func() { _, _ = r.Body.Read(make([]byte, 3)) }()
			return fails(ms, 0, errReset)(r)
		}, 0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 1)
				l.plan.BodyLimit, l.plan.SmallBody = test.limit, 0
				l.script("a:1", test.read)
				body := unannounced(newBody(time.Second, nil, "hel", "lo, ", "you"))
				if o := l.run(t.Context(), &front{body: body, unsafe: test.limit == 0}); o.err == nil {
					t.Error("the exchange did not fail")
				}
				if body.unread != test.unread || body.lost != test.lost {
					t.Errorf("%q is put back, lost %v; want %q, %v", body.unread, body.lost, test.unread, test.lost)
				}
				time.Sleep(2 * time.Second) // until the last read has ended
				l.close()
			})
		})
	}
}

// TestBodyReadLate has a transport read on after its round trip is over: the next attempt sends the whole body all the same, and nothing
// closes what is the server's.
func TestBodyReadLate(t *testing.T) {
	for name, between := range map[string]time.Duration{"when the next attempt is made": ms, "when that has read": 7 * ms, "when all is over": 20 * ms} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				var late error
				l.script("a:1", func(r *http.Request) (*http.Response, error) {
					if _, err := io.ReadFull(r.Body, make([]byte, 2)); err != nil {
						return nil, err
					}
					time.AfterFunc(between, func() {
						var n int
						if n, late = r.Body.Read(make([]byte, 5)); n != 0 {
							t.Errorf("read %d bytes that belong to another attempt", n)
						}
						r.Body.Close()
					})
					return nil, errReset
				})
				l.script("b:1", func(r *http.Request) (*http.Response, error) {
					if err := pause(r, 5*ms); err != nil {
						return nil, err
					}
					return echoes(5*ms, 200)(r)
				})
				f := &front{body: newBody(0, nil, "he", "llo")}
				l.run(t.Context(), f)
				time.Sleep(time.Second)
				synctest.Wait()
				if got := f.seen(); got != `200, "hello"` || !errors.Is(late, ErrBodyTaken) || f.body.closed != 0 {
					t.Errorf("the client sees %s, the late reader %v; the body was closed %d times", got, late, f.body.closed)
				}
				l.close()
			})
		})
	}
}

// TestBodyIsTheServers has a transport go on with a body that it has closed, and when the request is over: then it is the server's.
func TestBodyIsTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		var r *http.Request
		answers := func(closes bool) script {
			return func(own *http.Request) (*http.Response, error) {
				if r = own; closes {
					r.Body.Close()
					if n, err := r.Body.Read(make([]byte, 5)); n != 0 || !errors.Is(err, ErrBodyTaken) {
						t.Errorf("read %d, %v when it was closed", n, err)
					}
				}
				return newAnswer(200, "", nil), nil
			}
		}
		l.script("a:1", answers(true), answers(false))
		for range 2 {
			f := &front{body: newBody(0, nil, "a body that is not small")}
			l.run(t.Context(), f)
			if n, err := r.Body.Read(make([]byte, 5)); n != 0 || !errors.Is(err, ErrBodyTaken) || f.body.next != 0 || f.body.closed != 0 {
				t.Errorf("read %d, %v when all was over; the body was closed %d times", n, err, f.body.closed)
			}
		}
		l.close()
	})
}

// TestBodyTakenWhileRead has a transport wait for the client when another attempt takes the body from it.
func TestBodyTakenWhileRead(t *testing.T) {
	l := newLab(t, 2)
	pr, pw := io.Pipe()
	reading, again, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	l.script("a:1", func(r *http.Request) (*http.Response, error) {
		go func() {
			_, err := io.ReadFull(r.Body, make([]byte, 2))
			close(reading)
			for err == nil {
				_, err = r.Body.Read(make([]byte, 2))
			}
			over <- err
		}()
		<-reading
		return nil, errReset
	})
	l.script("b:1", func(r *http.Request) (*http.Response, error) {
		close(again)
		return echoes(0, 200)(r)
	})
	f := &front{}
	done := make(chan outcome)
	go func() { done <- l.run(t.Context(), withPipe(f, pr)) }()
	for i, part := range []string{"he", "ll", "o"} {
		if i == 1 {
			<-again
		}
		if _, err := io.WriteString(pw, part); err != nil {
			t.Fatal(err)
		}
	}
	pw.Close()
	if o := <-done; o.err != nil || f.seen() != `200, "hello"` {
		t.Errorf("%v, the client sees %s", o.err, f.seen())
	}
	if err := <-over; !errors.Is(err, ErrBodyTaken) {
		t.Errorf("the first attempt reads until %v", err)
	}
	l.close()
}

// withPipe has the body of a front come from a pipe.
func withPipe(f *front, r *io.PipeReader) *front {
	f.body, f.source = &clientBody{length: -1}, r
	return f
}

// TestBodyGotAgain has a transport replace a connection by itself, as net/http's does when that was closed while it was idle.
func TestBodyGotAgain(t *testing.T) {
	for name, test := range map[string]struct {
		front *front
		key   string
		seen  string
	}{
		"as it may":                         {&front{body: newBody(0, nil, "hello")}, "", `200, "hello"`},
		"with a key that is none for us":    {&front{body: newBody(0, nil, "hello"), unsafe: true}, "Idempotency-Key", "failed: connection reset"},
		"with another such":                 {&front{body: newBody(0, nil, "hello"), unsafe: true}, "X-Idempotency-Key", "failed: connection reset"},
		"with a key, and it is to be again": {&front{body: newBody(0, nil, "hello")}, "Idempotency-Key", `200, "hello"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 1)
				l.script("a:1", func(r *http.Request) (*http.Response, error) {
					_, _ = io.ReadFull(r.Body, make([]byte, 2))
					if r.GetBody == nil {
						return nil, errReset
					}
					before := r.Body
					body, err := r.GetBody()
					if err != nil {
						return nil, err
					}
					if _, err := before.Read(make([]byte, 1)); !errors.Is(err, ErrBodyTaken) {
						t.Errorf("the view before is read with %v", err)
					}
					r = r.WithContext(context.WithoutCancel(r.Context()))
					r.Body = body
					return echoes(0, 200)(r)
				})
				f := test.front
				if f.header = make(http.Header); test.key != "" {
					f.header[test.key] = []string{"1"}
				}
				l.rules.Retry.Attempts = 1
				l.plan.SmallBody = 5
				l.run(t.Context(), f)
				if got := f.seen(); got != test.seen {
					t.Errorf("the client sees %s, want %s", got, test.seen)
				}
				l.close()
			})
		})
	}
}
