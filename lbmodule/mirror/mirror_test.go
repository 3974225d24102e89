package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestShare: the number of copies is the share, all along, and also of what comes in turns.
func TestShare(t *testing.T) {
	const n, most = 100_000, 6 // the sequence strays by a few at most, however long it is
	for _, share := range []float64{0.0001, 0.01, 0.05, 1.0 / 3, 0.5, 0.9, 0.999, 1} {
		for range 3 { // each begins somewhere else
			var s sample
			s.init(share)
			copies := 0
			worst := 0.0
			byTurn := [][]int{make([]int, 2), make([]int, 7), make([]int, 20)}
			for i := range n {
				if s.next() {
					copies++
					for _, turns := range byTurn {
						turns[i%len(turns)]++
					}
				}
				worst = max(worst, math.Abs(float64(copies)-share*float64(i+1)))
			}
			if worst > most {
				t.Errorf("share %v: %.1f off at worst, %d copies in the end", share, worst, copies)
			}
			for _, turns := range byTurn {
				period := len(turns)
				for turn, copies := range turns {
					if want := share * n / float64(period); math.Abs(float64(copies)-want) > 4*most {
						t.Errorf("share %v: %d copies of turn %d of %d, want %.0f", share, copies, turn, period, want)
					}
				}
			}
		}
	}
}

// TestShareOfMany: several goroutines draw the same share together.
func TestShareOfMany(t *testing.T) {
	const each, share = 25_000, 0.05
	var s sample
	s.init(share)
	var copies atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range each {
				if s.next() {
					copies.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := copies.Load(); n < 4*each*share-6 || n > 4*each*share+6 {
		t.Errorf("%d copies of %d", n, 4*each)
	}
}

// TestGate: five copies without an answer close it, then one a second tries, and an answer opens it.
func TestGate(t *testing.T) {
	var g gate
	now := time.Now()
	for i := range patience {
		if closed := g.failed(now); closed != (i == patience-1) {
			t.Errorf("closed after %d: %v", i+1, closed)
		}
	}
	if g.failed(now) || g.admits(now.Add(pause-1)) {
		t.Error("the gate is not closed")
	}
	now = now.Add(pause)
	if !g.admits(now) || g.admits(now) || g.admits(now.Add(pause-1)) || !g.admits(now.Add(pause)) {
		t.Error("not one copy for each pause")
	}
	if !g.answered() || g.answered() || !g.admits(now) {
		t.Error("an answer has not opened the gate once")
	}
	for range patience - 1 { // it is counted anew
		if g.failed(now) {
			t.Error("closed too early")
		}
	}
	g.answered()
	for range patience - 1 {
		if g.failed(now) {
			t.Error("failures are not in a row")
		}
	}
}

type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answers is a trip that is answered with that status and body after a while.
func answers(after time.Duration, status int, body io.Reader) trip {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(after):
			return &http.Response{StatusCode: status, Body: io.NopCloser(body)}, nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// hanging is a body that ends with the context of its request.
type hanging struct{ ctx context.Context }

func (h hanging) Read([]byte) (int, error) {
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

type timeout struct{ error }

func (timeout) Timeout() bool { return true }

func newMirror(upstreams, most int) (*Mirror, *pool.Mirrored, *observer.ObservedLogs) {
	core, said := observer.New(zap.DebugLevel)
	counts := new(pool.Mirrored)
	var names []string
	for i := range upstreams {
		names = append(names, fmt.Sprint("m", i))
	}
	return New(Options{
		Upstreams: names, Share: 1, Timeout: 5 * time.Second, Most: most, Counts: counts, Logger: zap.New(core),
		Timed: func(err error) bool { return errors.As(err, new(timeout)) },
	}), counts, said
}

// send makes a copy, and reports whether there was one.
func send(t *testing.T, m *Mirror, by http.RoundTripper) bool {
	t.Helper()
	at, ok := m.Choose(time.Now())
	if !ok {
		return false
	}
	r, err := http.NewRequestWithContext(m.Context(), http.MethodGet, "http://mirror.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Send(at, r, by)
	return true
}

// outcomes is what has become of all copies.
func outcomes(c *pool.Mirrored) string {
	var all []string
	for o := range pool.MirrorOutcomes {
		if n := c.Ended(o); n > 0 {
			all = append(all, fmt.Sprint(o, " ", n))
		}
	}
	return strings.Join(all, ", ")
}

// TestOutcomes tries what may become of a copy, and how long that takes, in virtual time.
func TestOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		by   trip
		want string
		took time.Duration
	}{
		"an answer":              {answers(time.Second, 200, strings.NewReader("hello")), "success 1", time.Second},
		"a redirect":             {answers(time.Second, 302, strings.NewReader("")), "success 1", time.Second},
		"not found":              {answers(time.Second, 404, strings.NewReader("")), "success 1", time.Second},
		"an error of the server": {answers(time.Second, 500, strings.NewReader("")), "server_error 1", time.Second},
		"an answer without end":  {answers(time.Second, 200, rand.NewChaCha8([32]byte{})), "success 1", time.Second},
		"an answer too late":     {answers(time.Minute, 200, strings.NewReader("")), "timeout 1", 5 * time.Second},
		"a timeout of its own":   {func(*http.Request) (*http.Response, error) { return nil, timeout{errors.New("slow")} }, "timeout 1", 0},
		"no connection":          {func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") }, "failure 1", 0},
		"a body that breaks off": {answers(0, 200, io.MultiReader(strings.NewReader("x"), broken{})), "failure 1", 0},
		"a panic":                {func(*http.Request) (*http.Response, error) { panic("crash") }, "failure 1", 0},
		"a body that never comes": {func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(hanging{r.Context()})}, nil
		}, "timeout 1", 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, counts, _ := newMirror(1, 10)
				defer m.Close()
				began := time.Now()
				if !send(t, m, test.by) {
					t.Fatal("no copy")
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("sending took %v", took)
				}
				if n := counts.InFlight(); n != 1 && test.took > 0 {
					t.Errorf("%d in flight", n)
				}
				time.Sleep(test.took - 1)
				synctest.Wait()
				if got := outcomes(counts); got != "" && test.took > 0 {
					t.Errorf("%s before its time", got)
				}
				time.Sleep(2 * time.Nanosecond)
				synctest.Wait()
				if got := outcomes(counts); got != test.want || counts.InFlight() != 0 {
					t.Errorf("got %s, %d in flight; want %s", got, counts.InFlight(), test.want)
				}
			})
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// counted counts what is read of it.
type counted struct {
	io.Reader
	read int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.read += n
	return n, err
}

// TestAnswerLimit: what an answer may cost is bounded, and one within the bound is read to its end, so that its connection can be used again.
func TestAnswerLimit(t *testing.T) {
	for size, want := range map[int64]int{answerLimit - 1: answerLimit - 1, 10 << 20: answerLimit} {
		synctest.Test(t, func(t *testing.T) {
			m, _, _ := newMirror(1, 10)
			defer m.Close()
			body := &counted{Reader: io.LimitReader(rand.NewChaCha8([32]byte{}), size)}
			send(t, m, answers(0, 200, body))
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if body.read != want {
				t.Errorf("of %d bytes %d were read, want %d", size, body.read, want)
			}
		})
	}
}

// TestBound: no more copies are in flight than may be, and what is beyond is counted.
func TestBound(t *testing.T) {
	const most, more = 7, 1000
	synctest.Test(t, func(t *testing.T) {
		m, counts, _ := newMirror(1, most)
		defer m.Close()
		var now atomic.Int64
		by := trip(func(r *http.Request) (*http.Response, error) {
			now.Add(1)
			defer now.Add(-1)
			return answers(time.Second, 200, strings.NewReader("")).RoundTrip(r)
		})
		for range 3 {
			for i := range more {
				if sent := send(t, m, by); sent != (i < most) {
					t.Fatalf("copy %d: sent: %v", i, sent)
				}
			}
			synctest.Wait()
			if n := now.Load(); n != most {
				t.Errorf("%d at a time", n)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if got, want := outcomes(counts), fmt.Sprintf("success %d, dropped %d", 3*most, 3*(more-most)); got != want {
			t.Errorf("%s; want %s", got, want)
		}
	})
}

// TestTurns: all upstreams get the same number of copies, and those of one that does not answer go to the others.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, counts, said := newMirror(3, 10)
		defer m.Close()
		var got [3]int
		dead := false
		ask := func(n int) {
			got = [3]int{}
			for range n {
				at, ok := m.Choose(time.Now())
				if !ok {
					t.Fatal("no copy")
				}
				got[at]++
				by := answers(0, 200, strings.NewReader(""))
				if dead && at == 1 {
					by = func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") }
				}
				r, _ := http.NewRequestWithContext(m.Context(), http.MethodGet, "http://mirror.test/", nil)
				m.Send(at, r, by)
				time.Sleep(time.Nanosecond) // as long as answers takes
				synctest.Wait()
			}
		}
		if ask(300); got != [3]int{100, 100, 100} {
			t.Errorf("%v", got)
		}
		dead = true
		if ask(300); got[1] != patience {
			t.Errorf("one that is dead has had %d", got[1])
		}
		if ask(300); got[1] != 0 {
			t.Errorf("one that is dead has had %d more", got[1])
		}
		time.Sleep(pause)
		if ask(300); got[1] != 1 {
			t.Errorf("one that is dead was tried %d times", got[1])
		}
		dead = false
		time.Sleep(pause)
		if ask(300); got[1] != 100 {
			t.Errorf("one that is back has had %d", got[1])
		}
		if want := fmt.Sprintf("success %d, failure %d", 1500-patience-1, patience+1); outcomes(counts) != want {
			t.Errorf("%s, want %s", outcomes(counts), want)
		}
		var lines []string
		for _, entry := range said.All() {
			lines = append(lines, entry.Message+" "+fmt.Sprint(entry.ContextMap()["mirror"]))
		}
		if want := "mirror does not answer m1, mirror answers again m1"; strings.Join(lines, ", ") != want {
			t.Errorf("the log says %q, want %s", lines, want)
		}
	})
}

// TestAllGone: while no upstream answers, copies are dropped, and hardly any is sent.
func TestAllGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, counts, _ := newMirror(2, 100)
		defer m.Close()
		sent := 0
		refused := trip(func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") })
		for range 10_000 { // in ten seconds
			if send(t, m, refused) {
				sent++
			}
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		if most := 2*patience + 2*10; sent > most || sent < 2*patience || counts.Ended(pool.MirrorDropped) != uint64(10_000-sent) {
			t.Errorf("%d were sent, %s", sent, outcomes(counts))
		}
	})
}

// TestClose: copies in flight end at once, and are not held against the upstream.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, counts, said := newMirror(1, 100)
		for range 2 * patience {
			send(t, m, answers(time.Minute, 200, strings.NewReader("")))
		}
		synctest.Wait()
		m.Close()
		began := time.Now()
		synctest.Wait()
		send(t, m, answers(time.Minute, 200, strings.NewReader(""))) // of a request that has outlived its config
		synctest.Wait()
		if got := outcomes(counts); got != fmt.Sprint("dropped ", 2*patience+1) || counts.InFlight() != 0 || time.Since(began) != 0 || said.Len() != 0 {
			t.Errorf("%s, %d in flight after %v, %d lines", got, counts.InFlight(), time.Since(began), said.Len())
		}
	})
}

// BenchmarkDraw is what each request that can be copied costs.
func BenchmarkDraw(b *testing.B) {
	m, _, _ := newMirror(1, 1)
	defer m.Close()
	m.sample.init(0.0001)
	b.ReportAllocs()
	for b.Loop() {
		m.Draws()
	}
}
