package lane

import (
	"time"

	"github.com/caddyserver/caddy/v2"
)

// bound limits the time for transferring a body in one direction, as [caddyhttp.IdleDeadline] does. Its zero value is no bound.
type bound struct {
	idle  time.Duration // the longest time of a read or a write; no limit if it is not positive
	rate  int64         // the least bytes per second since begun, which apply after idle; 0 for any
	begun time.Time
	end   time.Time // absolute end, whatever the other limits allow; zero for none
	moved int64     // bytes so far
}

// boundOf returns the bound for these settings of a Caddy server. server is the deadline that an [http.Server] would set; it applies where
// Caddy sets none itself.
func boundOf(idle, all caddy.Duration, rate int64, begun, server time.Time) bound {
	b := bound{idle: time.Duration(idle), rate: rate, begun: begun}
	switch {
	case idle <= 0:
		b.end = server
	case all > 0:
		b.end = begun.Add(time.Duration(all))
	}
	return b
}

// endOf returns the deadline of an operation with this limit; zero if there is no limit.
func endOf(begun time.Time, limit time.Duration) time.Time {
	if limit <= 0 {
		return time.Time{}
	}
	return begun.Add(limit)
}

// next returns the range in which the deadline of the next read or write may be.
func (b *bound) next() (early, late time.Time) {
	switch {
	case b.idle <= 0:
		return b.end, b.end
	case b.rate > 0:
		const second = int64(time.Second)
		credit := b.moved/b.rate*second + b.moved%b.rate*second/b.rate
		early = b.begun.Add(b.idle + time.Duration(credit))
		late = early
	default:
		now := time.Now()
		early, late = now.Add(b.idle), now.Add(b.idle+b.idle/16)
	}
	if !b.end.IsZero() && late.After(b.end) {
		late = b.end
		if early.After(late) {
			early = late
		}
	}
	return early, late
}
