package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

var (
	errRate        = errors.New("rate limit exceeded")
	errConcurrency = errors.New("concurrency limit exceeded")
	errUnavailable = errors.New("rate limit store is unavailable")
)

func causeError(c bucket.Cause) error {
	switch c {
	case bucket.Rate:
		return errRate
	case bucket.Concurrency:
		return errConcurrency
	default:
		return errUnavailable
	}
}

// refuse returns an error with status 429, which the site's handle_errors may handle.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, d bucket.Decision) error {
	refusal := h.refusal(d)
	refusal.SetHeader(w.Header())
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		refusal.SetPlaceholders(repl)
	}
	return refusal.Err
}

// Refusal describes the answer to a refused request. The header fields are those of draft-ietf-httpapi-ratelimit-headers-10, and
// Retry-After of RFC 9110.
type Refusal struct {
	Err error // with status 429, as a handler returns it

	zone, wait, limit, policy string
}

// SetHeader sets the header fields of the answer.
func (f *Refusal) SetHeader(header http.Header) {
	header.Set("Retry-After", f.wait)
	header.Set("RateLimit", f.limit)
	header.Set("RateLimit-Policy", f.policy)
}

// SetPlaceholders sets the placeholders of a refused request.
func (f *Refusal) SetPlaceholders(repl *caddy.Replacer) {
	repl.Set("http.ip_rate_limit.zone", f.zone)
	repl.Set("http.ip_rate_limit.retry_after", f.wait)
}

func (h *Handler) refusal(d bucket.Decision) *Refusal {
	wait := seconds(d.Wait)
	multiple := d.Key.Multiple()
	quota, window := quota(h.limits, multiple)
	policy := fmt.Sprintf("%q;q=%d;w=%d", h.zone.name, quota, window)
	if d.Cause == bucket.Concurrency || h.limits.Rate == 0 {
		policy = fmt.Sprintf("%q;q=%d;qu=\"concurrent-requests\"", h.zone.name, h.limits.Concurrency*multiple)
	}
	return &Refusal{
		Err:    caddyhttp.Error(http.StatusTooManyRequests, causeError(d.Cause)),
		zone:   h.zone.name,
		wait:   strconv.Itoa(wait),
		limit:  fmt.Sprintf("%q;r=0;t=%d", h.zone.name, wait),
		policy: policy,
	}
}

// seconds rounds up to whole seconds, at least one.
func seconds(d time.Duration) int { return max(int(math.Ceil(d.Seconds())), 1) }

// quota expresses the limits as a number of requests in a window of whole seconds: the time in which a bucket fills.
func quota(l bucket.Limits, multiple int) (requests, window int) {
	if l.Rate == 0 {
		return 0, 0
	}
	window = max(int(math.Ceil(float64(l.Burst)/float64(l.Rate)-1e-9)), 1)
	return max(int(math.Floor(float64(l.Rate)*float64(multiple)*float64(window)+1e-9)), 1), window
}
