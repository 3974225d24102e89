package ratelimit

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// FuzzRetryAfter exhausts limits. Retry-After is a whole number of seconds, as RFC 9110 requires, the other fields agree with it, and a
// client that waits that long is admitted; half a second after a long wait has begun it is not.
func FuzzRetryAfter(f *testing.F) {
	f.Add("100/s", 7, 0, uint32(0))
	f.Add("5/m", 0, 3, uint32(999_999_999))
	f.Add("0.001/h", 1, 0, uint32(1))
	f.Add("", 0, 2, uint32(0))
	f.Add("1000000/s", 1, 1, uint32(500_000_000))
	f.Add("0.3333333/s", 2, 0, uint32(333_333_333))
	f.Fuzz(func(t *testing.T, rate string, burst, concurrency int, between uint32) {
		s := Settings{Rate: rate, Burst: burst, Concurrency: concurrency}
		if s.CheckWhole() != nil || s.limits().Burst > 1000 || concurrency > 1000 {
			return
		}
		h := handlerOf(s)
		now := time.Unix(1_000_000_000, int64(between))
		h.zone.table = bucket.New(h.limits, 1000, func() time.Time { return now })
		r := requestOf("192.0.2.1")
		ask := func(r *http.Request, inside caddyhttp.HandlerFunc) (http.Header, error) {
			w := httptest.NewRecorder()
			admitted := false
			err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				admitted = true
				if inside != nil {
					return inside(w, r)
				}
				return nil
			}))
			if admitted != (err == nil) {
				t.Fatalf("%+v: admitted %v, %v", s, admitted, err)
			}
			return w.Header(), err
		}
		var header http.Header
		var refusal error
		if concurrency > 0 {
			// Requests stay in flight, each inside the one before it.
			var deeper caddyhttp.HandlerFunc
			deeper = func(http.ResponseWriter, *http.Request) error {
				if h, err := ask(r, deeper); err != nil {
					header, refusal = h, err // the innermost
				}
				return nil
			}
			_ = deeper(nil, r)
		}
		for n := 0; refusal == nil; n++ {
			if header, refusal = ask(r, nil); n > h.limits.Burst+1 {
				t.Fatalf("%+v: %d requests at once are admitted", s, n)
			}
		}
		checkRefusal(t, h, header, refusal)
		wait, _ := strconv.Atoi(header.Get("Retry-After"))
		if now = now.Add(time.Duration(wait) * time.Second); h.limits.Rate == 0 {
			return
		}
		if _, err := ask(requestOf("192.0.2.1"), nil); err != nil {
			t.Fatalf("%+v: refused after the %d s of Retry-After: %v", s, wait, err)
		}
	})
}

func checkRefusal(t *testing.T, h *Handler, header http.Header, err error) {
	t.Helper()
	var status caddyhttp.HandlerError
	if !errors.As(err, &status) || status.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("%+v: refused with %v", h.Settings, err)
	}
	text := header.Get("Retry-After")
	wait, err := strconv.ParseUint(text, 10, 31)
	if err != nil || wait < 1 || strconv.FormatUint(wait, 10) != text {
		t.Fatalf("%+v: Retry-After %q", h.Settings, text)
	}
	if got, want := header.Get("RateLimit"), fmt.Sprintf(`"z";r=0;t=%d`, wait); got != want {
		t.Fatalf("%+v: RateLimit %s, want %s", h.Settings, got, want)
	}
	var quota, window uint64
	if n, _ := fmt.Sscanf(header.Get("RateLimit-Policy"), `"z";q=%d;w=%d`, &quota, &window); n == 2 {
		// A client that keeps to the quota exceeds the rate by at most the one request that is always promised.
		if most := float64(h.limits.Rate) * float64(window); float64(quota) > most+1e-6 && quota > 1 {
			t.Fatalf("%+v: the policy promises %d requests in %d s, and the rate allows %v", h.Settings, quota, window, most)
		}
	}
}
