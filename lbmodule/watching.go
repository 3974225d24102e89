package lbmodule

import (
	"sync"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/healthcheck/probe"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// checker makes the active checks of all configs: those of a new config go on where those of the old one were.
var checker probe.Checker

// watching has the members of one set probed, and tried when they are dead, while its config serves.
type watching struct {
	service *Service

	mu    sync.Mutex // guards what follows
	on    bool
	set   *Set
	stops []func()
}

// follow has the members of set probed from now on, and no others.
func (w *watching) follow(set *Set) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set = set
	if w.on {
		w.begin()
	}
}

// start begins to probe.
func (w *watching) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = true
	w.begin()
}

// stop ends probing.
func (w *watching) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = false
	w.end()
}

// begin probes the members of the set. Those who were probed before go on without a break. The caller holds w.mu.
func (w *watching) begin() {
	s := w.service
	stops := s.redial(w.set, false)
	if s.probing != nil && w.set != nil {
		for i := range w.set.view.Len() {
			b := w.set.view.Backend(i)
			if b.Unchecked || b.State == pool.Maintenance {
				continue
			}
			check, err := s.probing.of(b.Address)
			if err != nil {
				// Only addresses that a dynamic source named can be wrong here.
				s.logger.Error("backend cannot be checked", zap.String("pool", s.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
				continue
			}
			stops = append(stops, checker.Watch(check, pool.Observer{
				Member: w.set.view.Member(i), Thresholds: s.check.Thresholds(), Elsewhere: s.probing.elsewhere(b.Address),
			}))
		}
	}
	w.end()
	w.stops = stops
}

func (w *watching) end() {
	for _, stop := range w.stops {
		stop()
	}
	w.stops = nil
}
