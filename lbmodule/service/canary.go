package service

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// canarying runs a load balancer's canary, which gives a share of the clients to some of the backends.
type canarying struct {
	service  *Service
	settings *config.Canary
	run      *canary.Run
	release  func()
	keeper   *manage.Canary // keeps the canary's state in storage
	hurry    chan struct{}  // signals that the state has to be written

	mu  sync.Mutex // guards end
	end context.CancelFunc
}

// openCanary acquires the pool's canary, if the load balancer has one. Load balancers with the same settings share it, also across configs.
func (s *Service) openCanary(ctx context.Context) error {
	settings := s.settings.Canary
	if settings == nil {
		return nil
	}
	rules := settings.Run(s.settings.Hedge.Enabled())
	description, err := json.Marshal([]any{settings, rules})
	if err != nil {
		return err
	}
	c := &canarying{service: s, settings: settings, hurry: make(chan struct{}, 1)}
	run, releaseRun := s.pool.Canary(string(description), rules)
	ctx, cancel := context.WithTimeout(ctx, canaryRead)
	defer cancel()
	keeper, releaseKeeper := s.manager.Canary(ctx, run, string(description), s.owner.Storage(), s.logger)
	c.run, c.keeper = run, keeper
	c.release = func() {
		releaseKeeper()
		releaseRun()
	}
	s.canary = c
	return nil
}

// Canary returns the canary and its settings; nil for none.
func (s *Service) Canary() (*canary.Run, *config.Canary) {
	if s.canary == nil {
		return nil, nil
	}
	return s.canary.run, s.canary.settings
}

func (c *canarying) close() {
	if c != nil {
		c.release()
	}
}

const (
	// canaryInterval is the interval at which the counts are evaluated, and the storage is read.
	canaryInterval = time.Second
	// canaryRetry bounds the time between two attempts while the storage fails. The time doubles up to it.
	canaryRetry = 30 * time.Second
	// canaryRead bounds how long a config waits for the storage when it is loaded.
	canaryRead = 5 * time.Second
	// canaryWait bounds how long a manual change of a canary, or a config that ends, waits for the storage.
	canaryWait = time.Second
)

// start starts evaluating the counts and following the storage.
func (c *canarying) start() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		var ctx context.Context
		ctx, c.end = context.WithCancel(context.Background())
		go c.watch(ctx)
		go c.follow(ctx)
	}
}

// stop undoes start.
func (c *canarying) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		c.end()
		c.end = nil
	}
}

func (c *canarying) watch(ctx context.Context) {
	ticker := time.NewTicker(canaryInterval)
	defer ticker.Stop()
	for now := time.Now(); ; {
		changes := c.run.Watch(now)
		c.tell(changes)
		if len(changes) > 0 || c.run.Due() {
			select {
			case c.hurry <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return
		case now = <-ticker.C:
		}
	}
}

// follow writes the canary's state to storage, and takes over the state that other nodes write, until ctx ends. The storage may be slow, so
// watch does not do this.
func (c *canarying) follow(ctx context.Context) {
	wait := canaryInterval
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.hurry:
		case <-timer.C:
		}
		timer.Stop()
		if c.keep(ctx) {
			wait = canaryInterval
		} else {
			wait = min(2*wait, canaryRetry)
		}
	}
}

// keep synchronizes the canary's state with the storage. It returns false if the storage fails.
func (c *canarying) keep(ctx context.Context) bool {
	k := c.keeper.Keep(ctx, c.service.owner.Storage())
	if ctx.Err() != nil {
		return true
	}
	c.tell(k.Changes)
	logger, pool := c.service.logger, zap.String("pool", c.service.pool.Name())
	if k.Broken != nil {
		logger.Error("state of canary in storage cannot be read; it is ignored", pool, zap.Error(k.Broken))
	}
	switch k.Turn {
	case manage.Began:
		logger.Error("state of canary cannot be written to storage; it stays in force here, and the write is retried", pool, zap.Error(k.Err))
	case manage.Ended:
		logger.Info("state of canary is kept in storage again", pool)
	}
	return k.Err == nil
}

// KeepCanary writes a change of the canary to storage, and waits up to canaryWait for that.
func (s *Service) KeepCanary() {
	if s.canary == nil || !s.canary.keeper.Pending() {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.canary.keep(context.Background())
	}()
	timer := time.NewTimer(canaryWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// ForgetCanary removes from storage the state of a canary that the pool had in another config, if it has none in this one.
func (s *Service) ForgetCanary(ctx context.Context) {
	if s.canary != nil {
		return
	}
	if err := s.manager.ForgetCanary(ctx, s.owner.Storage()); err != nil && ctx.Err() == nil {
		s.logger.Warn("state of a former canary cannot be removed from storage", zap.String("pool", s.pool.Name()), zap.Error(err))
	}
}

// tell reports changes of the share.
func (c *canarying) tell(changes []canary.Change) {
	for _, change := range changes {
		c.service.TellCanary(change)
	}
}

// TellCanary reports a change of the canary's share.
func (s *Service) TellCanary(change canary.Change) {
	report := s.canary.run.Report()
	report.Share, report.State, report.Reason, report.Elsewhere = change.Share, change.State, change.Reason, change.Elsewhere
	s.pool.Report([]pool.Event{{Kind: pool.CanaryMoved, Pool: s.pool.Name(), Reason: change.Reason, Canary: report}})
}

// divide divides the set into the backends of the canary and the others, if there are both. It returns the events to report once no lock is
// held.
func (s *Set) divide(running []overlay.Running, settings pool.Settings) (events []pool.Event) {
	c := s.service.canary
	var positions [2][]int
	for i := range running {
		b, side := &running[i], canary.Others
		if c.settings.Matches(b.Name, b.Address, b.Zone) {
			side = canary.Canary
		}
		positions[side] = append(positions[side], i)
	}
	if len(positions[canary.Canary]) == 0 || len(positions[canary.Others]) == 0 {
		return nil
	}
	for side, those := range positions {
		part := &Set{service: s.service, whole: s, superseded: s.superseded}
		for _, i := range those {
			part.upstreams = append(part.upstreams, s.upstreams[i])
			part.targets = append(part.targets, s.targets[i])
		}
		var more []pool.Event
		part.view, more = s.service.pool.OpenPart(s.view, those, settings, c.run.Counts(canary.Side(side)))
		s.parts[side], events = part, append(events, more...)
	}
	return events
}

// Side returns the part of the set from which requests of that side choose: the whole set if no backend in the part is usable. A canary
// that is off gets no requests, even if all other backends fail. before is the set of a request's last attempt, and tried are the positions
// there of the members that have failed the request; both are nil for a new request. If a retry has no backend left in the part, it may go
// to the others.
func (s *Set) Side(side canary.Side, before *Set, tried []int) *Set {
	part := s.parts[side]
	switch {
	case part == nil:
		return s
	case side == canary.Others && s.service.canary.run.Off():
		return part
	case !part.view.Serves(), before == s && len(tried) > 0, before == part && len(tried) > 0 && !part.view.Snapshot().Others(tried):
		return s
	default:
		return part
	}
}

// Divided returns the parts of the set, by [canary.Side]; nil if it is not divided.
func (s *Set) Divided() (parts [2]*Set) { return s.parts }
