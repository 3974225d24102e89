package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queued is a pool of one member with one slot, and requests that wait for it.
type queued struct {
	t    *testing.T
	view *View
	held Lease

	mu     sync.Mutex
	served []string // clients, in the order in which they got the slot
	ended  map[string]error
}

func newQueued(t *testing.T) *queued {
	list := backends(1)
	list[0].MaxRequests = 1
	q := &queued{t: t, view: newPool().Open(list, guarded()), ended: make(map[string]error)}
	q.held = take(t, q.view)
	return q
}

// wait makes a request wait, in a goroutine of its own. The first letter of its name is its client.
func (q *queued) wait(ctx context.Context, name string, size int, timeout time.Duration) {
	go func() {
		var l Lease
		err := q.view.Pool().Wait(ctx, name[:1], size, timeout, func() (err error) {
			l, err = q.view.Acquire(nil, true)
			return err
		})
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ended[name] = err
		if err == nil {
			q.served = append(q.served, name)
			q.held = l
		}
	}()
	synctest.Wait()
}

// free releases the slot and returns the request that got it.
func (q *queued) free() {
	q.mu.Lock()
	held := q.held
	q.mu.Unlock()
	held.Release()
	synctest.Wait()
}

func (q *queued) expect(served ...string) {
	q.t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Equal(q.served, served) {
		q.t.Errorf("served %q, want %q", q.served, served)
	}
}

func (q *queued) expectEnd(name string, want error) {
	q.t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if err, ended := q.ended[name]; !ended || !errors.Is(err, want) {
		q.t.Errorf("%s: ended %v with %v, want %v", name, ended, err, want)
	}
}

// First come first served within a client, clients in turn.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t)
		for _, name := range []string{"a1", "a2", "a3", "b1", "b2", "c1"} {
			q.wait(t.Context(), name, 10, time.Minute)
		}
		if got := q.view.Pool().QueueLength(); got != 6 {
			t.Errorf("%d wait, want 6", got)
		}
		for range 6 {
			q.free()
		}
		q.expect("a1", "b1", "c1", "a2", "b2", "a3")
		if got := q.view.Pool().QueueLength(); got != 0 {
			t.Errorf("%d wait in the end", got)
		}
		q.free()
		if l := take(t, q.view); !l.Held() {
			t.Error("the slot is gone")
		}
	})
}

// A client with few waiting requests takes the place of one with many, but not of one with equally many.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t)
		for _, name := range []string{"a1", "a2", "a3"} {
			q.wait(t.Context(), name, 3, time.Minute)
		}
		q.wait(t.Context(), "a4", 3, time.Minute)
		q.expectEnd("a4", ErrQueueFull)
		q.wait(t.Context(), "b1", 3, time.Minute)
		q.expectEnd("a3", ErrQueueFull)
		q.wait(t.Context(), "b2", 3, time.Minute)
		q.expectEnd("b2", ErrQueueFull)
		q.wait(t.Context(), "c1", 3, time.Minute)
		q.expectEnd("a2", ErrQueueFull)
		q.wait(t.Context(), "d1", 3, time.Minute)
		q.expectEnd("d1", ErrQueueFull)
		for range 3 {
			q.free()
		}
		q.expect("a1", "b1", "c1")
	})
}

// A request that gives up leaves the queue, and keeps no slot.
func TestQueueLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t)
		ctx, cancel := context.WithCancel(t.Context())
		q.wait(ctx, "a1", 3, time.Minute)
		q.wait(t.Context(), "b1", 3, time.Second)
		q.wait(t.Context(), "c1", 3, time.Minute)
		cancel()
		synctest.Wait()
		q.expectEnd("a1", context.Canceled)
		time.Sleep(time.Second)
		synctest.Wait()
		q.expectEnd("b1", ErrQueueTimeout)
		if got := q.view.Pool().QueueLength(); got != 1 {
			t.Errorf("%d wait, want 1", got)
		}
		q.free()
		q.expect("c1")
	})
}

// A member that comes back frees many slots at a time; when all members are gone, no request waits for a slot any more.
func TestQueueFollowsThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := backends(2)
		list[0].MaxRequests, list[1].MaxRequests = 1, 3
		s := guarded()
		s.Checked = true
		q := &queued{t: t, view: newPool().Open(list, s), ended: make(map[string]error)}
		defer q.view.Close()
		passes(q.view, 0)
		fails(q.view, true, 1)
		q.held = take(t, q.view)
		for n := range 5 {
			q.wait(t.Context(), fmt.Sprintf("%c1", 'a'+n), 10, time.Minute)
		}
		q.expect()
		for range 2 {
			passes(q.view, 1)
		}
		synctest.Wait()
		q.expect("a1", "b1", "c1")
		for range 5 {
			fails(q.view, true, 0)
			fails(q.view, true, 1)
		}
		synctest.Wait()
		q.expectEnd("d1", ErrNone)
		q.expectEnd("e1", ErrNone)
	})
}

// sleeper is a waiter, and how many times it was woken.
type sleeper struct {
	Waiter
	woken int
}

// asleep puts a waiter of that client to sleep.
func asleep(q *queue, client string) *sleeper {
	s := new(sleeper)
	s.client, s.wake = client, func() { s.woken++ }
	q.length.Add(1)
	q.sleep(&s.Waiter, false)
	return s
}

// A request that is woken at the moment when it gives up passes the slot on.
func TestQueueHandsOn(t *testing.T) {
	var q queue
	first, second := asleep(&q, "a"), asleep(&q, "b")
	q.wake(false)
	if first.woken != 1 || second.woken != 0 {
		t.Fatalf("woken: %d, %d; want the first only", first.woken, second.woken)
	}
	q.leave(&first.Waiter)
	if second.woken != 1 {
		t.Error("the slot of a request that left when it was woken is lost")
	}
}

// A slot that becomes free while all waiting requests are awake, and may have tried already, is not lost.
func TestQueueMissesNothing(t *testing.T) {
	var q queue
	first, second := asleep(&q, "a"), asleep(&q, "b")
	q.wake(false)
	q.wake(false)
	first.woken, second.woken = 0, 0
	q.wake(true) // a member has come back, with slots for both
	q.sleep(&first.Waiter, true)
	q.sleep(&second.Waiter, true)
	if first.woken != 1 || second.woken != 1 {
		t.Errorf("woken: %d, %d; want both", first.woken, second.woken)
	}
}

// Caps are exact and no request is forgotten, however many arrive, leave and are served at a time.
func TestQueueRaces(t *testing.T) {
	list := backends(3)
	for i := range list {
		list[i].MaxRequests = 2
	}
	v := newPool().Open(list, guarded())
	defer v.Close()
	var busy [3]atomic.Int64
	var served, left atomic.Int64
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			for k := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				if (n+k)%7 == 0 {
					time.AfterFunc(time.Duration(k)*time.Microsecond, cancel)
				}
				var l Lease
				try := func() (err error) {
					l, err = v.Acquire(nil, true)
					return err
				}
				err := ErrFull
				if v.Pool().QueueLength() == 0 {
					err = try()
				}
				if errors.Is(err, ErrFull) {
					err = v.Pool().Wait(ctx, strings.Repeat("x", n%8), 100, time.Minute, try)
				}
				if err != nil {
					left.Add(1)
				} else {
					if busy[l.Index()].Add(1) > 2 {
						t.Error("more than two at a time")
					}
					if k%3 == 0 {
						time.Sleep(10 * time.Microsecond)
					}
					busy[l.Index()].Add(-1)
					l.Release()
					served.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if served.Load() < 64*100*3/4 || v.Pool().QueueLength() != 0 {
		t.Errorf("%d served, %d left, %d wait in the end", served.Load(), left.Load(), v.Pool().QueueLength())
	}
	for i := range list {
		if got := v.Member(i).InFlight(); got != 0 {
			t.Errorf("%d in flight on member %d in the end", got, i)
		}
	}
}

// Requests that wait when the process is about to exit are dismissed; later ones do not wait.
func TestQueueIsDismissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t)
		start := time.Now()
		q.wait(t.Context(), "a1", 10, time.Hour)
		q.wait(t.Context(), "b1", 10, time.Hour)
		for range 2 {
			q.view.Pool().Dismiss()
		}
		synctest.Wait()
		q.wait(t.Context(), "c1", 10, time.Hour)
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, name := range []string{"a1", "b1", "c1"} {
			if err := q.ended[name]; !errors.Is(err, ErrDismissed) {
				t.Errorf("%s: %v, want %v", name, err, ErrDismissed)
			}
		}
		if n := q.view.Pool().QueueLength(); n != 0 || time.Since(start) != 0 {
			t.Errorf("%d wait after %v", n, time.Since(start))
		}
		q.held.Release()
	})
}
