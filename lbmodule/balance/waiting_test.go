package balance

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// ticks after the start, for what a turn of 8 ticks (34 ms) is long.
func newWaiting() *waiting {
	w := new(waiting)
	w.size(0.0005)
	return w
}

func TestWaitingOverdue(t *testing.T) {
	w := newWaiting()
	turn := uint32(1) << w.shift.Load()
	if turn != 8 {
		t.Fatalf("a turn has %d ticks, want 8 for answers of 0.5 ms", turn)
	}
	first := w.begin(100 * turn)
	for _, test := range []struct {
		ticks uint32
		want  int
	}{{0, 0}, {turn, 0}, {2*turn - 1, 0}, {2 * turn, 1}, {1000 * turn, 1}} {
		if got := w.overdue(100*turn + test.ticks); got != test.want {
			t.Errorf("after %d ticks %d are overdue, want %d", test.ticks, got, test.want)
		}
	}
	// Others come and go meanwhile, in the same places.
	for k := range uint32(100) {
		now := (110 + k) * turn
		w.end(w.begin(now), true, now+1)
		if got := w.overdue(now + 1); got != 1 {
			t.Fatalf("%d overdue, want the first", got)
		}
	}
	fresh := w.begin(300 * turn) // in the place of the first
	w.end(first, true, 300*turn)
	if got, total := w.overdue(300*turn), w.total.Load(); got != 0 || total != 1 {
		t.Errorf("%d overdue of %d, want none of one", got, total)
	}
	w.end(fresh, true, 300*turn)
	if got, total := w.overdue(300*turn), w.total.Load(); got != 0 || total != 0 {
		t.Errorf("%d overdue of %d, want none", got, total)
	}
}

// Turns become longer and shorter with the answers, and no request is lost.
func TestWaitingSizes(t *testing.T) {
	w := newWaiting()
	random := rand.New(rand.NewPCG(3, 4))
	var tickets []Ticket
	now := uint32(1000)
	for range 10_000 {
		now += random.Uint32N(20)
		switch {
		case len(tickets) > 0 && random.IntN(2) == 0:
			k := random.IntN(len(tickets))
			w.end(tickets[k], true, now)
			tickets = append(tickets[:k], tickets[k+1:]...)
		default:
			tickets = append(tickets, w.begin(now))
		}
		if random.IntN(100) == 0 {
			w.size(random.Float64())
		}
		if got := int(w.total.Load()); got != len(tickets) {
			t.Fatalf("%d wait, want %d", got, len(tickets))
		}
		if got := w.overdue(now); got < 0 || got > len(tickets) {
			t.Fatalf("%d of %d are overdue", got, len(tickets))
		}
	}
	for _, k := range tickets {
		w.end(k, true, now)
	}
	if got := w.overdue(now); got != 0 || w.pages(now) != 0 {
		t.Errorf("%d are overdue where none waits", got)
	}
	w.size(1e12) // must not make turns of no length
	w.end(w.begin(now), true, now)
}

// A mean that fluctuates around a power of two does not make all requests overdue again and again.
func TestWaitingSizeIsSteady(t *testing.T) {
	w := newWaiting()
	w.size(0.0035)
	shift := w.shift.Load()
	for range 10 {
		for _, typical := range []float64{0.0030, 0.0035} {
			if w.size(typical); w.shift.Load() != shift {
				t.Fatalf("answers of %v s change the length of turns", typical)
			}
		}
	}
	if w.size(0.0001); w.shift.Load() != shift {
		t.Error("half as long changes it")
	}
	if w.size(1); w.shift.Load() <= shift {
		t.Error("it does not grow")
	}
	if w.size(0.0001); w.shift.Load() >= shift+2 {
		t.Error("it does not shrink")
	}
}

func TestWaitingConcurrently(t *testing.T) {
	w := newWaiting()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for k := range uint32(5000) {
				ticket := w.begin(k)
				w.pages(k)
				w.end(ticket, k%2 == 0, k+k%40)
			}
		})
	}
	group.Wait()
	if total, overdue := w.total.Load(), w.overdue(6000); total != 0 || overdue != 0 {
		t.Errorf("%d wait, %d are overdue, want none", total, overdue)
	}
}

// An overdue request is taken for a slow page when the member answers others meanwhile.
func TestWaitingPages(t *testing.T) {
	const now = 10_000
	for name, test := range map[string]struct {
		slow     int    // requests that have been waiting for long
		overtook uint32 // how long ago an answer came while one was overdue; 0 for never
		heard    uint32 // how long ago the last answer came
		fresh    int    // requests that have just begun
		want     int
	}{
		"none":                               {0, 5, 5, 0, 0},
		"one that nobody overtook":           {1, 0, 50, 0, 0},
		"one that was overtaken":             {1, 5, 5, 0, 1},
		"several that were overtaken":        {5, 5, 5, 0, 5},
		"it does so, if it is given others":  {1, 500, 100, 0, 1},
		"and two":                            {2, 500, 100, 0, 2},
		"but three may mean that it hangs":   {3, 500, 100, 0, 0},
		"and there is one it may answer":     {1, 500, 100, 1, 0},
		"that is long ago":                   {1, overtaking + 1, 100, 0, 0},
		"it is answering, and was overtaken": {1, 500, 5, 3, 1},
	} {
		w := newWaiting()
		for range test.slow {
			w.begin(now - 100)
		}
		for range test.fresh {
			w.begin(now)
		}
		if test.overtook > 0 {
			w.overtook.Store(now - test.overtook)
		}
		w.heard.Store(now - test.heard)
		if got := w.pages(now); got != test.want {
			t.Errorf("%s: %d are taken for slow pages, want %d", name, got, test.want)
		}
	}
}

// An answer that comes while another request is overdue shows that the member works on several; one that is overdue itself does not.
func TestWaitingOvertaken(t *testing.T) {
	w := newWaiting()
	slow := w.begin(1000)
	late := w.begin(1001)
	w.end(late, true, 1100)
	if w.overtook.Load() != 0 {
		t.Error("an answer as late as the other shows nothing")
	}
	w.end(w.begin(1100), false, 1101)
	if w.overtook.Load() != 0 {
		t.Error("a client that left shows nothing")
	}
	w.end(w.begin(1102), true, 1103)
	if w.overtook.Load() != 1103 {
		t.Error("an answer came while another request was overdue")
	}
	w.end(slow, true, 1200)
	w.end(w.begin(1200), true, 1201)
	if w.overtook.Load() != 1103 {
		t.Error("an answer shows nothing while no other request is overdue")
	}
}
