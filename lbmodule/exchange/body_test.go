package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// attemptOn gives a request of its own a view of the body.
func attemptOn(b *requestBody, source io.ReadCloser, length, limit int64, sent func()) *http.Request {
	r := &http.Request{Body: source, ContentLength: length}
	b.attach(r, limit, false, sent)
	return r
}

// Whatever attempts have read before, the next one that is allowed reads the whole body.
func TestReplay(t *testing.T) {
	seed := rand.Uint64()
	for n := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, n))
		want := make([]byte, rnd.IntN(300))
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		length, limit := int64(len(want)), rnd.Int64N(300)
		if rnd.IntN(2) == 0 {
			length = -1
		}
		var b requestBody
		source := io.NopCloser(bytes.NewReader(want))
		read := 0 // at most, by any attempt
		for range rnd.IntN(4) {
			r := attemptOn(&b, source, length, limit, func() {})
			for range rnd.IntN(5) {
				buf := make([]byte, rnd.IntN(100))
				k, err := r.Body.Read(buf)
				if read += k; err != nil {
					break
				}
			}
			if rnd.IntN(2) == 0 {
				r.Body.Close()
			}
			b.detach()
			if k, err := r.Body.Read(make([]byte, 1)); k != 0 || !errors.Is(err, ErrBodyTaken) {
				t.Fatalf("seed %d, %d: a view read %d, %v after the body was taken from it", seed, n, k, err)
			}
			if !b.rewindable() {
				break
			}
		}
		if b.read.Load() > limit && b.rewindable() {
			t.Fatalf("seed %d, %d: %d bytes are read, %d were to be kept, and it says it can be read again", seed, n, b.read.Load(), limit)
		}
		if fits := int64(len(want)) <= limit; fits && !b.rewindable() || read == 0 && !b.rewindable() {
			t.Fatalf("seed %d, %d: cannot be read again: %d bytes, %d kept", seed, n, len(want), limit)
		}
		sent := false
		r := attemptOn(&b, source, length, limit, func() { sent = true })
		got, err := io.ReadAll(r.Body)
		if b.rewindable() && int64(len(want)) <= limit && (err != nil || !bytes.Equal(got, want) || !sent) {
			t.Fatalf("seed %d, %d: read %d bytes of %d, %v, told so: %v", seed, n, len(got), len(want), err, sent)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("seed %d, %d: read %d bytes that are not the body, which has %d", seed, n, len(got), len(want))
		}
	}
}

// A transport that still reads when the next attempt begins takes nothing away from that.
func TestReplayWhileReading(t *testing.T) {
	pr, pw := io.Pipe()
	var b requestBody
	old := attemptOn(&b, pr, -1, 1<<10, func() {})
	began := make(chan struct{})
	go func() {
		close(began)
		_, _ = io.ReadAll(old.Body)
	}()
	<-began
	if _, err := pw.Write([]byte("begin")); err != nil {
		t.Fatal(err)
	}
	b.detach()
	got := make(chan string)
	go func() {
		all, err := io.ReadAll(attemptOn(&b, pr, -1, 1<<10, func() {}).Body)
		if err != nil {
			all = []byte(err.Error())
		}
		got <- string(all)
	}()
	for _, part := range []string{"ning", " and end"} {
		if _, err := pw.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	pw.Close()
	select {
	case all := <-got:
		if all != "beginning and end" {
			t.Errorf("read %q", all)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the next attempt waits for the one before")
	}
}

// What the client breaks off is known as that.
func TestReplayBroken(t *testing.T) {
	pr, pw := io.Pipe()
	var b requestBody
	r := attemptOn(&b, pr, 100, 0, func() {})
	pw.CloseWithError(io.ErrUnexpectedEOF)
	if _, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) || !b.failed() {
		t.Errorf("err = %v, failed %v", err, b.failed())
	}
}

// What was kept of a small body is nobody's in the end, and its room is used for another one.
func TestForget(t *testing.T) {
	for _, want := range []string{"hello", "other"} {
		var b requestBody
		r := attemptOn(&b, io.NopCloser(strings.NewReader(want)), 5, 5, func() {})
		if got, err := io.ReadAll(r.Body); string(got) != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		again := attemptOn(&b, nil, 5, 5, func() {})
		if got, err := io.ReadAll(again.Body); string(got) != want || err != nil {
			t.Errorf("again: %q, %v", got, err)
		}
		late := attemptOn(&b, nil, 5, 5, func() {})
		b.forget()
		if n, err := late.Body.Read(make([]byte, 5)); n != 0 || !errors.Is(err, ErrBodyTaken) || b.rewindable() {
			t.Errorf("afterwards: %d bytes, %v", n, err)
		}
	}
	// Who waits for the source is not waited for.
	var b requestBody
	reader, writer := io.Pipe()
	r := attemptOn(&b, reader, 5, 5, func() {})
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(r.Body, make([]byte, 5))
		read <- err
	}()
	if _, err := io.WriteString(writer, "he"); err != nil {
		t.Fatal(err)
	}
	b.forget()
	if _, err := io.WriteString(writer, "llo"); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	var none *requestBody
	none.forget()
}

// TestBodyInWhole tries a body that the front has collected: it comes anew with each attempt.
func TestBodyInWhole(t *testing.T) {
	var b requestBody
	for range 3 {
		told := 0
		r := &http.Request{Body: io.NopCloser(strings.NewReader("hello")), ContentLength: 5}
		b.attach(r, 0, true, func() { told++ })
		if got, err := io.ReadAll(r.Body); string(got) != "hello" || err != nil || told == 0 {
			t.Errorf("%q, %v, told %d times", got, err, told)
		}
		b.detach()
		if !b.rewindable() || b.failed() {
			t.Errorf("rewindable %v, failed %v", b.rewindable(), b.failed())
		}
	}
}

// TestBodies tries what becomes of a request's body.
func TestBodies(t *testing.T) {
	keeps := func(l *lab) { l.plan.BodyLimit, l.plan.SmallBody = 5, 0 }
	goes(t, map[string]*way{
		"sent once": {
			a: []script{echoes(5*ms, 200)}, front: front{body: newBody(0, nil, "he", "llo")}, seen: `200, "hello"`, took: 5 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"replayed": {
			a: []script{resets(ms)}, b: []script{echoes(ms, 200)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo")},
			seen: `200, "hello"`, took: 2 * ms, told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"replayed after a part of it": {
			a: []script{fails(ms, 3, errReset)}, b: []script{echoes(ms, 200)}, rules: keeps, front: front{body: newBody(0, nil, "he", "llo")},
			seen: `200, "hello"`, took: 2 * ms, told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
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
			told: "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 200 <nil>", countA: failedAgain,
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
				if got := f.seen(); got != `200, "hello"` || !errors.Is(late, ErrBodyTaken) || f.body.closed != 0 {
					t.Errorf("the client sees %s, the late reader %v; the body was closed %d times", got, late, f.body.closed)
				}
				l.close()
			})
		})
	}
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
