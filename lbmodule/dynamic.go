package lbmodule

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// pollInterval is how often a polled source is asked. Sources look up names at their own `refresh` and
	// answer from a cache in between.
	pollInterval = time.Second
	// pollTimeout bounds one look-up.
	pollTimeout = 10 * time.Second
)

// dynamicSource balances over the backends that an upstream source names.
//
// Caddy's own sources (a, srv, and multi of those) that use no placeholders of the request are polled: a
// request finds the backends there, and never waits for a name to be looked up, nor is an answer that
// was good thrown away because the next look-up fails. Any other source is asked for each attempt.
type dynamicSource struct {
	h      *Handler
	source reverseproxy.UpstreamSource
	polled bool

	current    atomic.Pointer[memberSet] // of a polled source; nil until it has answered
	publishing sync.Mutex                // guards the replacement of current, and answer
	answer     []*reverseproxy.Upstream  // that current is made of
	changed    chan struct{}             // closed when another set is current; guarded by publishing
	hurry      chan struct{}             // asks the poller to have names looked up anew
	turn       atomic.Uint64             // how often a polled source has been asked
	asking     sync.Mutex                // held while a polled source is asked
	lastErr    error                     // of the last turn; guarded by asking
	failing    atomic.Bool               // the last answer was an error

	sets memberSets
}

// loadDynamicSource loads the dynamic source, if there is one. It is taken from reverse_proxy, which would
// ask it at every attempt and go through a global lock for every backend it names.
func (h *Handler) loadDynamicSource(ctx caddy.Context) error {
	if h.DynamicUpstreamsRaw == nil {
		return nil
	}
	polled := canPoll(h.DynamicUpstreamsRaw)
	loaded, err := ctx.LoadModule(h, "DynamicUpstreamsRaw")
	if err != nil {
		return fmt.Errorf("dynamic_upstreams: %w", err)
	}
	source, ok := loaded.(reverseproxy.UpstreamSource)
	if !ok {
		return fmt.Errorf("dynamic_upstreams: %T is not a source of upstreams", loaded)
	}
	h.dynamic = &dynamicSource{h: h, source: source, polled: polled, changed: make(chan struct{}), hurry: make(chan struct{}, 1)}
	return nil
}

// members returns the backends for r; retry tells that an attempt on one of them has failed.
func (d *dynamicSource) members(r *http.Request, retry bool) (*memberSet, error) {
	if d.polled {
		if set := d.current.Load(); set != nil {
			if retry {
				d.hurryUp()
			}
			return set, nil
		}
		// The poller has not had its first answer yet.
		return d.refresh(r.Context(), false)
	}
	if retry {
		d.reset(r)
	}
	upstreams, err := d.source.GetUpstreams(r)
	d.note(err)
	if err != nil {
		return nil, fmt.Errorf("getting dynamic upstreams: %w", err)
	}
	return d.sets.of(d.h, upstreams), nil
}

// other returns what is closed when a polled source names other backends than those of set, or tells that it does already. It may be
// asked of a nil source.
func (d *dynamicSource) other(set *memberSet) (changed <-chan struct{}, already bool) {
	if d == nil || !d.polled {
		return nil, false
	}
	d.publishing.Lock()
	defer d.publishing.Unlock()
	current := d.current.Load()
	return d.changed, current != nil && current != set
}

// config returns the backends that the source names: in its latest answer, or, if answers depend on requests, in all that are
// remembered.
func (d *dynamicSource) config() []overlay.Backend {
	if d.polled {
		return d.sets.config(1)
	}
	return d.sets.config(maxSets)
}

// latest is the set of the latest answer, nil if there was none.
func (d *dynamicSource) latest() *memberSet {
	if d.polled {
		return d.current.Load()
	}
	return d.sets.latest()
}

// poll keeps the backends of a polled source up to date until ctx ends.
func (d *dynamicSource) poll(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	hurried := false
	for {
		// An error is noted there; the backends known so far stay.
		_, _ = d.refresh(ctx, hurried)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			select {
			case <-d.hurry:
				hurried = true
			default:
				hurried = false
			}
		}
	}
}

// hurryUp has the poller make the source look up its names anew at its next turn.
func (d *dynamicSource) hurryUp() {
	select {
	case d.hurry <- struct{}{}:
	default:
	}
}

// refresh asks a polled source and makes its answer the current one. With anew the source is made to forget
// what it has cached.
func (d *dynamicSource) refresh(ctx context.Context, anew bool) (*memberSet, error) {
	turn := d.turn.Load()
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.turn.Load() == turn {
		d.lastErr = d.ask(ctx, anew)
		d.turn.Add(1)
	}
	// Whoever waited for the lock takes the answer of the one before: a name server that does not answer
	// must not be waited for by one request after the other.
	return d.current.Load(), d.lastErr
}

// ask is called with d.asking held.
func (d *dynamicSource) ask(ctx context.Context, anew bool) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	r, err := syntheticRequest(ctx)
	if err != nil {
		return err
	}
	if anew {
		d.reset(r)
	}
	upstreams, err := d.source.GetUpstreams(r)
	d.note(err)
	if err != nil {
		return fmt.Errorf("getting dynamic upstreams: %w", err)
	}
	d.publish(upstreams)
	return nil
}

// publish makes an answer of the source the current one.
func (d *dynamicSource) publish(upstreams []*reverseproxy.Upstream) {
	d.publishing.Lock()
	d.answer = upstreams
	before := d.current.Load()
	events := d.compose()
	changed := d.current.Load() != before
	d.publishing.Unlock()
	d.h.pool.Report(events)
	if changed {
		d.h.pool.Wake()
		d.h.manager.renamed()
	}
}

// edited has the current answer be looked at with what has been edited since, and returns what there is to report.
func (d *dynamicSource) edited() []pool.Event {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	if d.current.Load() == nil {
		return nil
	}
	return d.compose()
}

// compose makes the current set of the answer. The caller holds d.publishing.
func (d *dynamicSource) compose() []pool.Event {
	set, events := d.sets.find(d.h, d.answer)
	if d.current.Swap(set) != set {
		close(d.changed)
		d.changed = make(chan struct{})
	}
	d.h.watchingDynamic.follow(d.h, set)
	return events
}

// reset has a source that caches forget what it has cached for r.
func (d *dynamicSource) reset(r *http.Request) {
	if c, ok := d.source.(reverseproxy.CachingUpstreamSource); ok {
		if err := c.ResetCache(r); err != nil {
			d.h.logger.Error("failed clearing cache of dynamic upstreams", zap.String("pool", d.h.pool.Name()), zap.Error(err))
		}
	}
}

// note logs when the source begins to fail, and when it answers again.
func (d *dynamicSource) note(err error) {
	if failing := err != nil; d.failing.Swap(failing) != failing {
		if failing {
			d.h.logger.Error("failed getting dynamic upstreams", zap.String("pool", d.h.pool.Name()), zap.Error(err))
		} else {
			d.h.logger.Info("getting dynamic upstreams again", zap.String("pool", d.h.pool.Name()))
		}
	}
}

// syntheticRequest is the request that a polled source is asked with. Sources expand placeholders, so it
// carries a replacer and variables.
func syntheticRequest(ctx context.Context) (*http.Request, error) {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
}
