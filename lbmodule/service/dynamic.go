package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// pollInterval is how often a polled source is queried. Sources cache their answers and look names up again after their own
	// `refresh`.
	pollInterval = time.Second
	// pollTimeout bounds one look-up.
	pollTimeout = 10 * time.Second
)

// dynamicSource balances over the backends that an upstream source names.
//
// Caddy's own sources (a, srv, and multi of those) are polled if they use no placeholders of the request: requests then read the latest
// answer and never wait for a look-up, and a failing look-up does not discard the last good answer. Any other source is queried for each
// attempt.
type dynamicSource struct {
	service *Service
	raw     json.RawMessage             // the config of the source
	source  reverseproxy.UpstreamSource // nil if it is polled
	polled  []*polledSource             // the sources that make it up; nil if it is not polled

	current    atomic.Pointer[Set] // the latest answer of a polled source; nil before the first one, and if empty
	empty      atomic.Bool         // the source answered that there are no backends, so the config's are used instead
	publishing sync.Mutex          // guards replacing the fields above, the answers in polled, and answered
	answered   bool                // at least one of polled has answered
	changed    chan struct{}       // closed when current is replaced; guarded by publishing
	hurry      chan struct{}       // tells the poller to look names up again now
	turn       atomic.Uint64       // counts the queries of a polled source
	asked      chan struct{}       // closed after the first of them
	noteAsked  func()              // closes asked
	asking     sync.Mutex          // held while a polled source is queried
	lastErr    error               // of the last query; guarded by asking
	failing    atomic.Bool         // the last query of a source that is not polled failed

	sets sets
}

func newDynamicSource(s *Service, raw json.RawMessage) *dynamicSource {
	d := &dynamicSource{service: s, raw: raw, changed: make(chan struct{}), hurry: make(chan struct{}, 1), asked: make(chan struct{})}
	d.noteAsked = sync.OnceFunc(func() { close(d.asked) })
	d.sets.service = s
	return d
}

// LoadSource loads the dynamic source from its config.
func (s *Service) LoadSource(ctx caddy.Context, raw json.RawMessage) error {
	d := newDynamicSource(s, raw)
	var err error
	if CanPoll(raw) {
		d.polled, err = loadPolled(ctx, raw)
	} else {
		d.source, err = loadSource(ctx, raw)
	}
	if err == nil {
		err = d.checkWeights()
	}
	if err != nil {
		return fmt.Errorf("dynamic_upstreams: %w", err)
	}
	s.dynamic = d
	return nil
}

// SourceName returns the name of a dynamic source, which is also the default name of its pool: its kind and, if known, the name that it
// looks up.
func SourceName(raw json.RawMessage) string {
	if location, ours := discovery.Location(raw); ours && config.ValidateName(location) == nil {
		return location
	}
	var source struct {
		Source  string          `json:"source"`
		Service string          `json:"service"`
		Proto   string          `json:"proto"`
		Name    string          `json:"name"`
		Port    json.RawMessage `json:"port"`
	}
	// A source of another kind, or one whose name is not valid here, is identified by a hash of its config.
	if err := json.Unmarshal(raw, &source); err == nil && source.Name != "" {
		name := source.Source + ":"
		if source.Service != "" || source.Proto != "" {
			name += "_" + source.Service + "._" + source.Proto + "."
		}
		name += source.Name
		if port := strings.Trim(string(source.Port), `"`); port != "" {
			name += ":" + port
		}
		if config.ValidateName(name) == nil {
			return name
		}
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(sourceID(raw))) // contains no secret
	return fmt.Sprintf("dynamic:%08x", sum.Sum32())
}

// loadSource loads a source from its config.
func loadSource(ctx caddy.Context, raw json.RawMessage) (reverseproxy.UpstreamSource, error) {
	holder := struct {
		SourceRaw json.RawMessage `caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`
	}{raw}
	loaded, err := ctx.LoadModule(&holder, "SourceRaw")
	if err != nil {
		return nil, err
	}
	source, ok := loaded.(reverseproxy.UpstreamSource)
	if !ok {
		return nil, fmt.Errorf("%T is not a source of upstreams", loaded)
	}
	return source, nil
}

func (d *dynamicSource) isPolled() bool { return d.source == nil }

// errNoNames is the error when a source has no backends.
var errNoNames = errors.New("dynamic source has no backends")

// members returns the backends for r. retry says that an attempt at one of them has failed.
func (d *dynamicSource) members(r *http.Request, retry bool) (*Set, error) {
	if d.isPolled() {
		if set := d.current.Load(); set != nil {
			if retry {
				d.hurryUp()
			}
			return set, nil
		}
		if d.empty.Load() {
			return nil, errNoNames
		}
		// The poller has not received its first answer yet.
		return d.refresh(r.Context(), false)
	}
	if retry {
		d.reset(d.source, r)
	}
	upstreams, err := d.source.GetUpstreams(r)
	d.noteFailing(err)
	if err != nil {
		return nil, fmt.Errorf("getting dynamic upstreams: %w", err)
	}
	return d.sets.setOf(upstreams), nil
}

// closed is a channel that is always closed.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// other returns a channel that is closed when the source no longer names the backends in set. d may be nil.
func (d *dynamicSource) other(set *Set) <-chan struct{} {
	if d == nil || !d.isPolled() {
		return nil
	}
	d.publishing.Lock()
	defer d.publishing.Unlock()
	if current := d.current.Load(); current != nil && current != set {
		return closed
	}
	return d.changed
}

// config returns the backends that the source names: those of its latest answer or, if its answers depend on the request, of all
// remembered answers.
func (d *dynamicSource) config() []overlay.Backend {
	if d.isPolled() {
		return d.sets.config(1)
	}
	return d.sets.config(maxSets)
}

// latest returns the set made from the latest answer, nil if there is none.
func (d *dynamicSource) latest() *Set {
	if d.isPolled() {
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
		// refresh records the error; the known backends stay.
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

// hurryUp makes the poller look the names up again at its next turn.
func (d *dynamicSource) hurryUp() {
	select {
	case d.hurry <- struct{}{}:
	default:
	}
}

// refresh queries a polled source and publishes its answer. If anew is set, the source drops its cache first.
func (d *dynamicSource) refresh(ctx context.Context, anew bool) (*Set, error) {
	turn := d.turn.Load()
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.turn.Load() == turn {
		d.lastErr = d.ask(ctx, anew)
		d.turn.Add(1)
		d.noteAsked()
	}
	// A caller that waited for the lock takes the answer of the previous one. Otherwise requests would wait for an unresponsive name
	// server one after the other.
	set, err := d.current.Load(), d.lastErr
	if set == nil && err == nil {
		err = errNoNames
	}
	return set, err
}

// ask queries all sources. It returns an error if none has ever answered. The caller holds d.asking.
func (d *dynamicSource) ask(ctx context.Context, anew bool) (err error) {
	answered := len(d.polled) == 0
	for _, s := range d.polled {
		list, asked := d.askOne(ctx, s, anew)
		if d.noteAnswer(s, list, asked, time.Now()) {
			answered = true
		} else {
			err = asked
		}
	}
	if !answered {
		return fmt.Errorf("getting dynamic upstreams: %w", err)
	}
	d.publish()
	return nil
}

// askOne queries one of the sources. Each has its own timeout, so that an unresponsive one does not delay the others.
func (d *dynamicSource) askOne(ctx context.Context, s *polledSource, anew bool) (found, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	r, err := syntheticRequest(ctx)
	if err != nil {
		return found{}, err
	}
	if anew {
		d.reset(s.source, r)
	}
	answer, err := s.ask(r)
	if err == nil {
		err = d.fit(s, &answer)
	}
	return answer, err
}

// noteAnswer records the result of a query and reports whether s has ever answered.
func (d *dynamicSource) noteAnswer(s *polledSource, answer found, err error, now time.Time) bool {
	before := s.answers // only the holder of d.asking writes them
	d.publishing.Lock()
	s.answers.note(answer, err, d.service.negativeTTL(), now)
	d.publishing.Unlock()
	d.noteState(s, &before, err)
	return s.known
}

// publish makes the sources' answers the current set.
func (d *dynamicSource) publish() {
	d.publishing.Lock()
	before := d.current.Load()
	d.answered = true
	events := d.compose()
	changed := d.current.Load() != before
	d.publishing.Unlock()
	d.service.pool.Report(events)
	if changed {
		d.service.pool.Wake()
		d.service.manager.Renamed()
	}
}

// apply puts the current edits in force in the current set, and returns the events to report.
func (d *dynamicSource) apply() []pool.Event {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	if !d.answered {
		return nil
	}
	return d.compose()
}

// inherit takes over the answers that another load balancer of the pool has from the same sources, so that a config that is loaded while
// the name server fails starts with the backends of its predecessor.
func (d *dynamicSource) inherit(others []manage.Group) {
	for _, s := range d.polled {
		for _, g := range slices.Backward(others) {
			if other, is := g.(*Service); is && other.Polls() && other.dynamic.bequeath(s) {
				break
			}
		}
		if s.known {
			d.answered = true
			d.noteAsked()
		}
	}
}

// bequeath copies the answers of the same source in d to s, and reports whether there is such a source.
func (d *dynamicSource) bequeath(s *polledSource) bool {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	at := slices.IndexFunc(d.polled, func(own *polledSource) bool { return sourceID(own.raw) == sourceID(s.raw) })
	if at < 0 {
		return false
	}
	s.answers = d.polled[at].answers
	return true
}

// compose builds the current set from the answers. The caller holds d.publishing.
func (d *dynamicSource) compose() []pool.Event {
	var all found
	for _, s := range d.polled {
		all.add(&s.found)
	}
	set, events := d.sets.find(&all)
	if set != d.current.Load() {
		d.service.watchingDynamic.follow(set)
	}
	standIn := len(all.list) == 0 && len(d.service.roster.backends) > 0
	d.empty.Store(standIn)
	if standIn {
		set = nil
	}
	if d.current.Swap(set) != set {
		close(d.changed)
		d.changed = make(chan struct{})
	}
	return events
}

// reset makes a caching source drop what it has cached for r.
func (d *dynamicSource) reset(source reverseproxy.UpstreamSource, r *http.Request) {
	if c, ok := source.(reverseproxy.CachingUpstreamSource); ok {
		if err := c.ResetCache(r); err != nil {
			d.service.logger.Error("failed clearing cache of dynamic upstreams", zap.String("pool", d.service.pool.Name()), zap.Error(err))
		}
	}
}

// noteFailing logs when a source that is not polled starts to fail, and when it recovers.
func (d *dynamicSource) noteFailing(err error) {
	if failing := err != nil; d.failing.Swap(failing) != failing {
		if failing {
			d.service.logger.Error("failed getting dynamic upstreams", zap.String("pool", d.service.pool.Name()), zap.Error(err))
		} else {
			d.service.logger.Info("getting dynamic upstreams again", zap.String("pool", d.service.pool.Name()))
		}
	}
}

// syntheticRequest returns the request that a polled source is queried with. Sources expand placeholders, so the request carries a
// replacer and variables.
func syntheticRequest(ctx context.Context) (*http.Request, error) {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
}
