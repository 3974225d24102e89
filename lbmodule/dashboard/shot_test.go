package dashboard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// load sends a GET request without a user, and returns the answer.
func load(d *Dashboard, target string) *httptest.ResponseRecorder {
	return ask(d, httptest.NewRequest(http.MethodGet, target, nil), Visit{})
}

// crowd sends 200 requests for the page and the state at the same time, and waits for the answers.
func crowd(t *testing.T, d *Dashboard) {
	t.Helper()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if w := load(d, []string{"/", "/state"}[i%2]); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `{"pools":[]}`) {
				t.Errorf("status %d, %.300s", w.Code, w.Body)
			}
		})
	}
	all.Wait()
}

// TestCrowdOfLoads checks that many loads share one snapshot per period, and that the last one is dropped.
func TestCrowdOfLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.takes = period / 4
		d := New(s)
		defer d.Close()
		for _, step := range []struct {
			pause time.Duration
			want  int
		}{{0, 1}, {0, 1}, {period / 2, 1}, {period / 2, 2}, {period, 3}} {
			time.Sleep(step.pause)
			crowd(t, d)
			if got := s.count(); got != step.want {
				t.Errorf("%d snapshots after a pause of %v, want %d", got, step.pause, step.want)
			}
		}
		time.Sleep(2 * period)
		synctest.Wait()
		if d.hub.shots.latest != nil {
			t.Error("an expired snapshot was kept")
		}
	})
}

// TestLoadsBesideAStream checks that loads need no snapshots of their own while a stream makes them.
func TestLoadsBesideAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		watch(t, d)
		time.Sleep(period / 2)
		for range 5 {
			crowd(t, d)
			time.Sleep(period)
		}
		if got := s.count(); got != 6 {
			t.Errorf("%d snapshots in 5.5 periods, want 6", got)
		}
	})
}

// TestStateAfterAChange checks that a request after a change gets a state with it, even if an older state is fresh or being made.
func TestStateAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		change := func(state string) {
			s.mu.Lock()
			s.state = state
			s.mu.Unlock()
			r := httptest.NewRequest(http.MethodPost, "/change", strings.NewReader(`{"pool":"web","backend":"a","change":{"weight":2}}`))
			r.Header.Set("Content-Type", "application/json")
			if w := ask(d, r, Visit{User: "ann", Actions: true}); w.Code != http.StatusNoContent {
				t.Errorf("change: status %d", w.Code)
			}
		}
		load(d, "/state")
		change(`"first"`)
		if got := load(d, "/state").Body.String(); got != `"first"` {
			t.Errorf("after the first change the state is %s", got)
		}
		time.Sleep(2 * period)
		s.takes = period / 4
		go load(d, "/")
		synctest.Wait() // the snapshot is being made now
		change(`"second"`)
		if got := load(d, "/").Body.String(); !strings.Contains(got, `>"second"</script>`) {
			t.Error("while an older snapshot is being made, the page does not have the second change")
		}
	})
}

// TestSourcePanics checks that requests do not wait forever for a snapshot whose source has panicked.
func TestSourcePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.takes, s.panics = period/4, true
		d := New(s)
		go func() {
			defer func() { _ = recover() }()
			load(d, "/state")
		}()
		synctest.Wait()
		if w := load(d, "/state"); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), errNoSnapshot.Error()) {
			t.Errorf("status %d, %s", w.Code, w.Body)
		}
	})
}
