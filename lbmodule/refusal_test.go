package lbmodule

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Requests that no backend answers are counted by why they were refused; those whose client left are not.
func TestRefusalsAreCounted(t *testing.T) {
	const one = `"backends": [{"address": "a:1", "max_requests": 1}]`
	for cause, test := range map[string]struct {
		settings string
		do       func(t *testing.T, h *Handler)
		want     uint64
	}{
		"limit":         {one, crowd(3), 2},
		"queue_full":    {`"queue": {"size": 1, "timeout": "1m"}, ` + one, crowd(4), 2},
		"queue_timeout": {`"queue": {"size": 9, "timeout": "500ms"}, ` + one, crowd(4), 3},
		"no_backend": {`"backends": [{"address": "a:1", "weight": 0}]`, func(t *testing.T, h *Handler) {
			all(t, statuses(t, h, 5), 5, http.StatusServiceUnavailable)
		}, 5},
		"shutdown": {`"queue": {"size": 9, "timeout": "1m"}, ` + one, func(t *testing.T, h *Handler) {
			results := statuses(t, h, 3)
			synctest.Wait()
			h.plan.Pool.Dismiss()
			for range 3 {
				<-results
			}
		}, 2},
		"": {`"queue": {"size": 9, "timeout": "1m"}, ` + one, func(t *testing.T, h *Handler) {
			first := statuses(t, h, 1)
			synctest.Wait()
			r := newRequest(t)
			ctx, leave := context.WithCancel(r.Context())
			left := make(chan int, 1)
			go func() {
				status, _, _ := served(h, r.WithContext(ctx))
				left <- status
			}()
			synctest.Wait()
			leave()
			if status := <-left; status != pool.StatusCanceled {
				t.Errorf("a client that left was answered with %d", status)
			}
			<-first
		}, 0},
	} {
		t.Run(cause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{"name": "refusals-` + cause + `x", ` + test.settings + `}`)
				g := gated(t, h)
				g.open.Store(true)
				g.takes = time.Second
				test.do(t, h)
				o := h.overview()
				want := map[string]uint64{"no_backend": 0, "limit": 0, "queue_full": 0, "queue_timeout": 0, "session": 0, "drained": 0, "shutdown": 0, "source": 0}
				if cause != "" {
					want[cause] = test.want
				}
				if !maps.Equal(o.Refused, want) {
					t.Errorf("refused %v, want %v", o.Refused, want)
				}
				if o.Codes["5xx"] != test.want || o.Requests != o.Codes["2xx"]+test.want+o.Canceled {
					t.Errorf("%d requests, codes %v, %d canceled", o.Requests, o.Codes, o.Canceled)
				}
			})
		})
	}
}

// crowd has that many requests come at once to a backend that takes one at a time, and a second for it.
func crowd(n int) func(*testing.T, *Handler) {
	return func(t *testing.T, h *Handler) {
		var got []int
		results := statuses(t, h, n)
		for range n {
			got = append(got, <-results)
		}
		if !slices.Contains(got, http.StatusOK) || !slices.Contains(got, http.StatusServiceUnavailable) {
			t.Errorf("statuses %v", got)
		}
	}
}
