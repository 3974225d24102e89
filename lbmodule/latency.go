package lbmodule

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// What the backends' latencies are told of the attempts. It is told whatever the policy: it shows, and another policy may come with
// a reload.

// learn tells the backend's latency how the attempt has ended, as far as that is known when the answer begins.
func (q *request) learn(ctx context.Context, res *http.Response, err error, now time.Time) {
	l := q.lease.Latency()
	if l == nil {
		return
	}
	took, known := q.took(now)
	failed := err != nil || speaksAgainst(res) || q.call.speaksAgainst() || q.verdict.Outcome == pool.Failure
	switch {
	case err != nil && q.verdict.Outcome == pool.Ignored:
		if (ctx.Err() != nil || q.call.excused) && known {
			l.Unanswered(took, now) // the client had had enough
		}
	case failed && q.isWatched(res, err, took, now):
		l.Unanswered(took, now)
	case failed:
		l.Failed(took, now)
	case q.call.pending != nil:
		q.call.took, q.call.known = took, known // it is told when there is something in the answer, or it has ended
	case q.call.ownDoing():
		l.Unanswered(took, now)
	case q.h.untilLastByte && !isStream(res) && res.Body != nil && res.Body != http.NoBody:
		q.lastByte = true
	case known:
		l.Answered(took, now)
	}
}

// isWatched tells whether a failure is one that the backend may yet be taken out for. Then it is not to be avoided as well: its
// breaker, or the passive checks, would never see enough of them to do so, nor tell anybody.
func (q *request) isWatched(res *http.Response, err error, took time.Duration, now time.Time) bool {
	if p := &q.h.passive; p.settings.Span > 0 && p.failed(res, err, took) {
		return true
	}
	return q.verdict.Outcome == pool.Failure && q.lease.Deciding(q.verdict.Refused, now)
}

// learnEnd tells it what is known at the answer's end only.
func (q *request) learnEnd(now time.Time) {
	took, known := q.took(now)
	switch l := q.lease.Latency(); {
	case q.answer.broken && !q.lease.Deciding(false, now):
		l.Failed(took, now)
	case !q.lastByte || !known:
	case q.answer.complete:
		l.Answered(took, now)
	default:
		l.Unanswered(took, now)
	}
}

// learn tells the latency of a copy's backend about a copy that is not the answer.
func (c *hedgeCopy) learn(res *http.Response, err error, outcome pool.Outcome) {
	l, now := c.choice.lease.Latency(), time.Now()
	if outcome == pool.Failure || err == nil && speaksAgainst(res) {
		l.Failed(now.Sub(c.start), now)
	} else {
		l.Unanswered(now.Sub(c.start), now)
	}
}

// took is how long the attempt has taken until now, from the request's last byte on: clients that are slow to send say nothing about
// a backend. An answer that came before that byte does neither.
func (q *request) took(now time.Time) (took time.Duration, known bool) {
	if q.sending == nil {
		return now.Sub(q.begun), true
	}
	sent := q.sending.done.Load()
	if sent == 0 {
		return 0, false
	}
	return now.Sub(time.Unix(0, sent)), true
}

// sending is the body of an attempt on its way.
type sending struct {
	done    atomic.Int64     // when its last byte was read, in Unix nanoseconds; 0 if it has not been
	latency *balance.Latency // is told that the request waits from then on; nil if there is none
	ticket  balance.Ticket   // what it gave for that; written before waits is waiting
	waits   atomic.Uint32    // whether it does: not yet, waiting, or no more
}

// The values of sending.waits.
const (
	waitsNotYet = iota
	waiting
	waitsNoMore
)

// finished may be called by the transport's goroutines, and more than once.
func (s *sending) finished(now time.Time) {
	if !s.done.CompareAndSwap(0, now.UnixNano()) || s.latency == nil {
		return
	}
	s.ticket = s.latency.Asked(now)
	if !s.waits.CompareAndSwap(waitsNotYet, waiting) {
		s.latency.Told(s.ticket, false, now) // the attempt has ended before
	}
}

// asks tells the backend's latency that the attempt waits for its answer, as soon as its last byte has been sent.
func (q *request) asks(now time.Time) {
	q.asked = q.lease.Latency() // a copy may take the attempt's place
	if q.sending != nil {
		q.sending.latency = q.asked
	} else if q.asked != nil {
		q.ticket = q.asked.Asked(now)
	}
}

// hears ends what asks began; err is how the attempt ended. What ended because nothing came is no sign of life.
func (q *request) hears(err error, now time.Time) {
	l, ticket := q.asked, q.ticket
	q.asked = nil
	if l == nil {
		return
	}
	if sent := q.sending; sent != nil {
		if sent.waits.Swap(waitsNoMore) != waiting {
			return
		}
		ticket = sent.ticket
	}
	if c := q.race.Load(); c != nil && err == nil {
		err = c.overtook
	}
	silence := errors.Is(err, context.Canceled) || errors.Is(err, errHedgeWon) || isTimeout(err)
	l.Told(ticket, !silence, now)
}

// speaksAgainst tells whether an answer makes nobody fast, however soon it came: a refusal, or an error.
func speaksAgainst(res *http.Response) bool {
	return res.StatusCode >= http.StatusInternalServerError || res.StatusCode == http.StatusTooManyRequests ||
		res.StatusCode >= http.StatusBadRequest && res.Header.Get("Retry-After") != ""
}
