package ratelimit

import (
	"context"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
	"github.com/ballastlb/ballast/ratelimit/redisstore"
)

// unavailable is the cause of refusals while the store does not answer.
const unavailable bucket.Cause = 255

// pass records what one limit has granted to a request, until the request ends.
type pass struct {
	h     *Handler
	grant bucket.Grant

	// The charge in the store.
	group  []byte
	shared []redisstore.Bucket
}

// decide decides about a request of c, and counts the outcome. If the request is allowed, p records what has to be given back.
func (h *Handler) decide(c *client, p *pass) (decision, bucket.Decision) {
	outcome, d := allowed, bucket.Decision{}
	if c.address.IsValid() && h.exemptions.contain(c.address) {
		outcome = exempt
	} else if d = h.take(c, p); !d.Allowed() {
		if outcome = refused; h.DryRun {
			outcome = dryRun
			h.logDryRun(d)
		}
	}
	h.zone.count(outcome)
	return outcome, d
}

// take decides about a request of c.
//
// With a store the local buckets are charged as well. They are never emptier than those of the store, because they are charged less: the
// store would refuse whatever they refuse, so it need not be asked. And when the store is unavailable, they can take over at about the
// right fill level.
func (h *Handler) take(c *client, p *pass) bucket.Decision {
	p.h = h
	asks := h.store != nil && h.store.Available()
	var d bucket.Decision
	p.grant, d = h.zone.table.Take(c.keys(), c.text)
	switch {
	case h.store == nil:
		return d
	case !asks:
		return h.withoutStore(p, c, d)
	case !d.Allowed() && (d.Cause == bucket.Concurrency || !d.Overflow):
		return d
	}
	group, buckets := sharedBuckets(c, h.limits)
	answer, err := h.store.Take(h.zone.name, group, buckets)
	if err != nil {
		return h.withoutStore(p, c, d)
	}
	if answer.Refused > 0 {
		p.grant.Refund()
		k := c.all[min(answer.Refused, c.n)-1]
		h.zone.table.Hold(k, answer.Wait)
		return bucket.Decision{Cause: bucket.Rate, Key: k, Wait: answer.Wait}
	}
	p.group, p.shared = group, buckets
	if !d.Allowed() {
		// The local table had no room.
		if p.grant, d = h.zone.table.TakeInFlight(c.keys(), c.text); !d.Allowed() {
			p.refund()
		}
		return d
	}
	return bucket.Decision{}
}

// withoutStore decides when the store cannot be asked. d is the decision of the local buckets.
func (h *Handler) withoutStore(p *pass, c *client, d bucket.Decision) bucket.Decision {
	h.zone.storeErrors.Add(1)
	switch h.Redis.OnError {
	case onErrorDeny:
		p.grant.Refund()
		return bucket.Decision{Cause: unavailable, Wait: time.Second}
	case onErrorAllow:
		if d.Cause == bucket.Rate {
			p.grant, d = h.zone.table.TakeInFlight(c.keys(), c.text)
		}
	}
	return d
}

// refund gives back the charge of a request that another limit has refused.
func (p *pass) refund() {
	p.grant.Refund()
	if p.shared != nil {
		p.h.store.Refund(p.h.zone.name, p.group, p.shared)
		p.shared = nil
	}
}

// passesVar is the request's variable that holds its passes, if a request may pass several limits.
const passesVar = "ip_rate_limit_passes"

type passes struct{ list []*pass }

func passesOf(ctx context.Context) *passes {
	all, ok := caddyhttp.GetVar(ctx, passesVar).(*passes)
	if !ok {
		all = new(passes)
		caddyhttp.SetVar(ctx, passesVar, all)
	}
	return all
}

func (a *passes) add(p *pass) { a.list = append(a.list, p) }

// remove removes the last one.
func (a *passes) remove() { a.list = a.list[:len(a.list)-1] }

// refund gives back all charges: a request that one limit refuses is charged to none.
func (a *passes) refund() {
	for _, p := range a.list {
		p.refund()
	}
}
