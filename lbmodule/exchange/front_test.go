package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// front is a client, and what it sees.
type front struct {
	lab *lab

	method  string
	header  http.Header
	body    *clientBody
	source  io.ReadCloser // what the body is read from instead; nil for body itself
	whole   bool          // the body is collected first, and comes anew with each attempt
	client  string
	key     pool.Key
	unsafe  bool // the request is not idempotent
	upgrade bool
	session func(course.Members) (position int, known, signed bool)
	wanted  func(pool.RetryReason, *http.Response) bool
	fails   map[int]error // of making the request of an attempt, by number
	foreign bool          // a policy of others comes up with a backend of its own
	alone   bool          // there can be no copy
	reads   reading
	back    http.RoundTripper // what carries attempts; nil for the lab

	attempts int    // made so far
	text     string // the body, before any read

	mu  sync.Mutex // guards what follows
	log []string
}

// reading is how a client takes its answer: after so many bytes it leaves, or all goes up in panic. The zero reading is to its end.
type reading struct {
	leaves bool
	panics bool
	after  int
	cancel context.CancelFunc
}

var errLeft = errors.New("client has left")

func (f *front) say(format string, a ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, a...))
}

// seen is what the client saw, and what it was asked.
func (f *front) seen() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, ", ")
}

func (f *front) Key() pool.Key       { return f.key }
func (f *front) ShadowKey() pool.Key { return f.key }
func (f *front) Origin() pool.Origin { return pool.Origin{Client: 1, Target: 2} }
func (f *front) Client() string      { return f.client }
func (f *front) Idempotent() bool    { return !f.unsafe }
func (f *front) Upgrade() bool       { return f.upgrade }

func (f *front) Session(m course.Members) (position int, known, signed bool) {
	return f.session(m)
}

func (f *front) Foreign(_ course.Members, candidates []int) (int, course.Target) {
	if f.foreign {
		return -1, target("own:1")
	}
	return candidates[0], nil
}

func (f *front) Wanted(reason pool.RetryReason, answer *http.Response) bool {
	return f.wanted != nil && f.wanted(reason, answer)
}

type informKey struct{}

// Attempt implements [Front].
func (f *front) Attempt(ctx context.Context, n int, to course.Target, inform Inform) (o Outgoing, err error) {
	f.attempts = n
	if err := f.fails[n]; err != nil {
		return o, err
	}
	ctx = context.WithValue(ctx, informKey{}, func(status int) {
		if inform.MayInform(n) {
			f.say("%d of attempt %d", status, n)
		}
	})
	r := (&http.Request{Method: f.method, URL: &url.URL{Host: to.Address()}, Header: f.header}).WithContext(ctx)
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	if f.back != nil {
		return Outgoing{Request: r, Back: f.back}, nil
	}
	if f.body == nil {
		return Outgoing{Request: r, Back: f.lab}, nil
	}
	r.Body, r.ContentLength = f.body, f.body.length
	if f.source != nil {
		r.Body = f.source
	}
	if f.whole {
		r.Body = io.NopCloser(strings.NewReader(strings.Join(f.body.parts, "")))
	}
	return Outgoing{Request: r, Back: f.lab, Whole: f.whole}, nil
}

func (f *front) Body() ClientBody {
	if f.body == nil {
		return nil
	}
	return f.body
}

func (f *front) Copy(ctx context.Context, r *http.Request, to course.Target) (o Outgoing, ok bool) {
	if f.alone {
		return o, false
	}
	r = r.WithContext(ctx)
	r.URL = &url.URL{Host: to.Address()}
	return Outgoing{Request: r, Back: f.lab}, true
}

func (f *front) CopyWon(to course.Target) { f.say("overtaken by %s", to.Address()) }

func (f *front) Bind(m course.Members, position int, renew bool) {
	f.say("bound to %s, renewed %v", m.Target(position).Address(), renew)
}

// Answer implements [Front].
func (f *front) Answer(res *http.Response) error {
	f.say("%d", res.StatusCode)
	if res.Body == nil {
		return nil
	}
	defer res.Body.Close()
	var err error
	var got []byte
	if f.reads.leaves || f.reads.panics {
		got = make([]byte, f.reads.after)
		var n int
		n, err = io.ReadFull(res.Body, got)
		got = got[:n]
	} else {
		got, err = io.ReadAll(res.Body)
	}
	f.say("%q", got)
	switch {
	case f.reads.panics:
		panic(http.ErrAbortHandler)
	case f.reads.leaves:
		if f.reads.cancel != nil {
			f.reads.cancel()
		}
		return errLeft
	}
	return err
}

func (f *front) Fail(err error) error {
	f.say("failed: %v", err)
	return err
}

func (f *front) Refuse(err error) error {
	f.say("refused: %v", err)
	return err
}

func (f *front) Ended(*http.Response, error, time.Time, time.Time) {}

func (f *front) Retrying(error) {}

// wantsStatus asks for another attempt after an answer with that status.
func wantsStatus(status int) func(pool.RetryReason, *http.Response) bool {
	return func(reason pool.RetryReason, res *http.Response) bool {
		return reason == pool.RetryStatus && res.StatusCode == status
	}
}
