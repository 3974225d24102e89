//go:build unix

package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a client whose connections are pipes. The header of an answer, and then its body, take as long as the path of the request
// says. At the end of a connection hungUp is closed, if it is not nil.
func pipes(hungUp chan<- struct{}) *Client {
	return &Client{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			r, err := http.ReadRequest(bufio.NewReader(theirs))
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			takes, err := time.ParseDuration(strings.TrimPrefix(r.URL.Path, "/"))
			if err != nil {
				panic(err)
			}
			if hungUp != nil {
				defer close(hungUp)
			}
			for _, part := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "done"} {
				theirs.SetReadDeadline(time.Now().Add(takes))
				if _, err := theirs.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
					return
				}
				io.WriteString(theirs, part)
			}
		}()
		return ours, nil
	}}
}

// len is how many connections are watched.
func (w *watcher) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// A connection is closed when the client leaves: at once, or in the second round if the request is patient and has had fewer.
func TestWhenTheClientLeaves(t *testing.T) {
	gone := errors.New("client has left")
	whole := func(c context.Context) context.Context { return c }
	for _, test := range []struct {
		name          string
		patient       bool
		of            func(context.Context) context.Context
		leaves, fails time.Duration // after the beginning
	}{
		{"not patient", false, whole, time.Millisecond, time.Millisecond},
		{"with a deadline", true, func(c context.Context) context.Context {
			limited, cancel := context.WithTimeoutCause(c, 7*time.Millisecond, gone)
			t.Cleanup(cancel)
			return limited
		}, time.Hour, 7 * time.Millisecond},
		{"before the first round", true, whole, time.Millisecond, 2 * watchEvery},
		{"between the rounds", true, whole, watchEvery + time.Millisecond, 2 * watchEvery},
		{"after the rounds", true, whole, 2*watchEvery + time.Millisecond, 2*watchEvery + time.Millisecond},
		{"late", true, whole, time.Minute, time.Minute},
		{"during the body", true, whole, 90 * time.Minute, 90 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hungUp := make(chan struct{})
				c := pipes(hungUp)
				ctx, cancel := context.WithCancelCause(context.Background())
				ctx = test.of(ctx)
				start := time.Now()
				time.AfterFunc(test.leaves, func() { cancel(gone) })
				res, err := c.Do(&Call{Request: request(ctx, http.MethodGet, "http://backend/1h"), Patient: test.patient})
				if err == nil {
					_, err = io.ReadAll(res.Body)
				}
				if took := time.Since(start); !errors.Is(err, gone) || took != test.fails {
					t.Errorf("%v after %v, want an error after %v", err, took, test.fails)
				}
				cancel(nil)
				synctest.Wait()
				select {
				case <-hungUp:
				default:
					t.Error("the connection is open")
				}
				if got := c.watcher.len(); got != 0 {
					t.Errorf("%d connections are watched", got)
				}
			})
		})
	}
}

// An answer that is complete before the watcher comes by is not lost.
func TestLeavesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Millisecond, cancel)
		res, err := pipes(nil).Do(&Call{Request: request(ctx, http.MethodGet, "http://backend/2ms"), Patient: true})
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "done" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
	})
}

// The watcher sleeps unless there are requests that it has not seen twice.
func TestWatcherSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipes(nil)
		ask := func(path string) {
			t.Helper()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			res, err := c.Do(&Call{Request: request(ctx, http.MethodGet, "http://backend/"+path), Patient: true})
			if err == nil {
				_, err = io.ReadAll(res.Body)
			}
			if err != nil {
				t.Error(err)
			}
		}
		awake := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := c.watcher.awake.Load(); got != want {
				t.Errorf("%s: awake: %v", when, got)
			}
		}
		awake("at first", false)
		for range 3 {
			go ask("1h")
			awake("during a request", true)
			time.Sleep((quietRounds + 3) * watchEvery)
			awake("during a long request", false)
			ask("1ms")
			awake("after a short request", true)
			time.Sleep((quietRounds + 1) * watchEvery)
			awake("long after a short request", false)
		}
		go ask("1h")
		c.CloseIdleConnections()
		time.Sleep((quietRounds + 3) * watchEvery)
		awake("when the client was closed", false)
		time.Sleep(3 * time.Hour)
		if got := c.watcher.len(); got != 0 {
			t.Errorf("%d connections are watched", got)
		}
	})
}

// A request that begins while the watcher falls asleep, where the watcher has already looked, is seen by it.
func TestFallingAsleep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &Client{}
	late, long, last := &conn{client: c}, &conn{client: c}, &conn{client: c}
	for _, made := range []*conn{late, long, last} {
		c.watcher.add(made)
	}
	long.ctx, long.seen = ctx, true
	c.watcher.quiet = quietRounds - 1
	c.watcher.awake.Store(true)
	last.mu.Lock()
	var round sync.WaitGroup
	round.Go(c.watcher.round)
	eventually(t, "the watcher has looked at late and long", func() bool {
		long.mu.Lock()
		defer long.mu.Unlock()
		return long.stop != nil
	})
	late.watch(&Call{Request: new(http.Request).WithContext(ctx), Patient: true})
	last.mu.Unlock()
	round.Wait()
	if !c.watcher.awake.Load() {
		t.Error("the watcher sleeps during a request")
	}
	late.unwatch()
	long.unwatch()
	eventually(t, "the watcher sleeps", func() bool { return !c.watcher.awake.Load() })
}

// A connection is kept after a request that the watcher has taken care of, and after many.
func TestKeptAfterLongRequests(t *testing.T) {
	b := newBackend(t, answering(okay))
	c := b.client()
	for n := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		res, err := c.Do(&Call{Request: request(ctx, http.MethodGet, "http://backend/x"), Patient: true})
		if err != nil {
			t.Fatal(err)
		}
		for range n % 4 {
			c.watcher.look()
		}
		if body, err := io.ReadAll(res.Body); string(body) != "ok" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		cancel()
	}
	if got := b.dials(); got != 1 {
		t.Errorf("%d connections", got)
	}
}

// Requests that are canceled at any time never harm those that follow on the same connections, none of which can be made again.
func TestCancelAtAnyTime(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) {
		for p.head() != nil {
			if rand.N(2) == 0 {
				time.Sleep(rand.N(300 * time.Microsecond))
			}
			p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			p.say("k")
		}
	})
	c := b.client()
	over := make(chan struct{})
	var watching, asking sync.WaitGroup
	watching.Go(func() { // in a hurry
		for {
			select {
			case <-over:
				return
			default:
				c.watcher.look()
			}
		}
	})
	gone := errors.New("client has left")
	var whole, broken atomic.Int32
	for range 16 {
		asking.Go(func() {
			for n := range 400 {
				ctx, cancel := context.WithCancelCause(t.Context())
				leaves := n%2 == 0
				if leaves {
					time.AfterFunc(rand.N(300*time.Microsecond), func() { cancel(gone) })
				}
				res, err := c.Do(&Call{Request: request(ctx, http.MethodPost, "http://backend/x"), Patient: true})
				var body []byte
				if err == nil {
					body, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				switch {
				case err == nil && string(body) == "ok":
					whole.Add(1)
				case leaves && errors.Is(err, gone):
					broken.Add(1)
				default:
					t.Errorf("leaves: %v: %q, %v", leaves, body, err)
				}
				cancel(nil)
			}
		})
	}
	asking.Wait()
	close(over)
	watching.Wait()
	if whole.Load() < 3200 || broken.Load() == 0 {
		t.Errorf("%d whole answers, %d canceled ones", whole.Load(), broken.Load())
	}
	c.CloseIdleConnections()
	// What closes a connection when its context ends may still be running.
	eventually(t, "no connection is watched", func() bool { return c.watcher.len() == 0 })
}

// A request that is broken off fails at once, whether it waits for its answer or has no connection yet, and leaves no connection that
// another request could be given. What comes too late changes nothing.
func TestBreakOff(t *testing.T) {
	for _, test := range []struct {
		name    string
		patient bool
		at      time.Duration // negative for before the request
		most    time.Duration // response_header_timeout
	}{
		{"waiting", true, time.Minute, 0},
		{"waiting, not patient", false, time.Minute, 0},
		{"at once", true, time.Millisecond, 0},
		{"without a connection", true, -1, 0},
		{"waiting, with a timeout", true, time.Minute, time.Hour},
		{"without a connection, with a timeout", true, -1, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hungUp := make(chan struct{})
				c := pipes(hungUp)
				c.ResponseHeaderTimeout = test.most
				k := &Call{Request: request(t.Context(), http.MethodGet, "http://backend/1h"), Patient: test.patient}
				if k.Waits() {
					t.Error("it waits before it began")
				}
				start := time.Now()
				if test.at < 0 {
					k.BreakOff()
				} else {
					time.AfterFunc(test.at, func() {
						if !k.Waits() {
							t.Error("it does not wait")
						}
						k.BreakOff()
					})
				}
				if _, err := c.Do(k); !errors.Is(err, errBrokenOff) || time.Since(start) != max(test.at, 0) {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				<-hungUp
				if got := c.watcher.len(); got != 0 {
					t.Errorf("%d connections are watched", got)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := pipes(nil)
		k := &Call{Request: request(t.Context(), http.MethodGet, "http://backend/1s"), Patient: true}
		res, err := c.Do(k)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(res.Body); err != nil || string(text) != "done" {
			t.Fatalf("%q, %v", text, err)
		}
		next := &Call{Request: request(t.Context(), http.MethodGet, "http://backend/1s"), Patient: true}
		time.AfterFunc(time.Millisecond, k.BreakOff)
		if res, err = c.Do(next); err != nil {
			t.Fatalf("the next request: %v", err)
		}
		res.Body.Close()
		synctest.Wait()
	})
}
