package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/subset"
)

// NewSubset returns the rule for these settings; nil for nil.
func NewSubset(s *config.Subset) (*subset.Rule, error) {
	if s == nil {
		return nil, nil
	}
	peer, peers, known, err := s.Fleet()
	if err != nil {
		return nil, err
	}
	r := &subset.Rule{Size: s.Size, Peer: peer, Peers: peers}
	if !known {
		identity, err := Identity()
		if err != nil {
			return nil, fmt.Errorf("subset: %w", err)
		}
		r.Identity = xxhash.Sum64String(identity)
	}
	return r, nil
}

// Identity returns a string that distinguishes this balancer from the others of its fleet: Caddy's instance ID, which is a file in its data
// directory, and the host name. Either alone may be shared: the directory by containers that mount the same volume or come from one image,
// the name by several instances on one host.
func Identity() (string, error) {
	id, idErr := caddy.InstanceID()
	host, hostErr := os.Hostname()
	if idErr != nil && hostErr != nil {
		return "", errors.Join(errors.New("this balancer has no identity: set its number with peer"), idErr, hostErr)
	}
	return id.String() + "\n" + host, nil
}

// subsetting narrows the backends of a load balancer to its subset.
type subsetting struct {
	service  *Service
	rule     subset.Rule
	patience time.Duration // for [subset.Reach.Look]

	mu    sync.Mutex // guards the fields below; no other lock is taken while it is held
	reach subset.Reach
	turn  uint64 // counts the changes of reach's steps
	end   context.CancelFunc
}

// newSubsetting returns nil for a nil rule.
func newSubsetting(s *Service, rule *subset.Rule) *subsetting {
	if rule == nil {
		return nil
	}
	// A backend that is down until its first checks have passed needs the time for these.
	patience := time.Second
	if c := s.check; c != nil && c.Initial == "down" {
		patience += time.Duration(c.Rise)*time.Duration(c.FastInterval) + time.Duration(c.Timeout)
	}
	return &subsetting{service: s, rule: *rule, patience: patience}
}

// narrowed describes how a set was narrowed to a subset.
type narrowed struct {
	of      int // number of all backends
	chosen  int // number of those in the subset
	further int // number of others that are used while the subset is not usable

	places  []subset.Place // by position in the set
	groups  []subset.Group
	windows map[subset.Group]int
}

// narrow returns the backends that are used. n may be nil: then all are.
func (n *subsetting) narrow(all []overlay.Running) (used []overlay.Running, how *narrowed) {
	if n == nil {
		return all, nil
	}
	backends := make([]subset.Backend, len(all))
	for i := range all {
		b := &all[i]
		backends[i] = subset.Backend{Address: b.Address, Group: subset.GroupOf(b.Backup, b.Zone, n.service.settings.PreferZone), Idle: b.State != overlay.Ready || b.Weight == 0}
	}
	n.mu.Lock()
	steps := n.reach.Steps()
	n.mu.Unlock()
	choice := n.rule.Choose(backends, steps)
	how = &narrowed{of: len(all), windows: choice.Windows}
	for i, place := range choice.Places {
		switch place {
		case subset.Outside:
			continue
		case subset.Own:
			how.chosen++
		case subset.Further:
			how.further++
		}
		used = append(used, all[i])
		how.places, how.groups = append(how.places, place), append(how.groups, backends[i].Group)
	}
	return used, how
}

// version changes when narrow may return another result for the same backends.
func (n *subsetting) version() uint64 {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.turn
}

// inherit takes over the steps of a load balancer of the same pool, so that a config that is loaded in an outage continues where its
// predecessor is.
func (n *subsetting) inherit(from *subsetting) {
	if n == nil || from == nil || n.rule != from.rule {
		return
	}
	from.mu.Lock()
	reach := from.reach.Clone()
	from.mu.Unlock()
	n.mu.Lock()
	n.reach = reach
	n.mu.Unlock()
}

// start starts watching whether the subset is usable.
func (n *subsetting) start() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.end == nil {
		var ctx context.Context
		ctx, n.end = context.WithCancel(context.Background())
		go n.watch(ctx)
	}
}

// stop undoes start.
func (n *subsetting) stop() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.end != nil {
		n.end()
		n.end = nil
	}
}

// restBetweenLooks bounds how often watch looks at the members while their health changes all the time.
const restBetweenLooks = 100 * time.Millisecond

// watch switches to other backends while no backend of the subset is usable, and back, until ctx ends.
func (n *subsetting) watch(ctx context.Context) {
	s := n.service
	for ctx.Err() == nil {
		// Before a dynamic source has answered, there is no set to look at.
		next := time.Now().Add(pollInterval)
		var replaced, superseded, renamed <-chan struct{}
		if set, _ := s.Shown(); set != nil && set.narrowed != nil {
			superseded, renamed = set.Superseded()
			snapshot := set.view.Snapshot()
			replaced, next = snapshot.Replaced(), time.Time{}
			// While a member waits for its first check, the health of the subset is not known.
			if !snapshot.Held() {
				var changed bool
				if changed, next = n.look(set, time.Now()); changed {
					s.manager.Refresh(s)
					continue
				}
			}
		}
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-replaced:
		case <-superseded:
		case <-renamed:
		case <-due:
		}
		select {
		case <-ctx.Done():
		case <-time.After(restBetweenLooks):
		}
	}
}

// look updates the steps from the health of the set's members. It returns whether other backends must be used from then on, and when to
// look again; zero if only a change of the members' health matters.
func (n *subsetting) look(set *Set, now time.Time) (changed bool, next time.Time) {
	tallies := set.tally()
	n.mu.Lock()
	before := n.reach.Steps()
	changed, next = n.reach.Look(tallies, n.patience, now)
	after := n.reach.Steps()
	if changed {
		n.turn++
	}
	n.mu.Unlock()
	logger := n.service.logger.With(zap.String("pool", n.service.pool.Name()))
	for g, t := range tallies {
		fields := []zap.Field{zap.Int("backup", int(g/2)), zap.Int("members", t.Own), zap.Int("usable", t.OwnUsable)}
		if zone := n.service.settings.PreferZone; zone != "" {
			fields = append(fields, zap.String("prefer_zone", zone), zap.Bool("in_zone", g%2 == 1))
		}
		switch {
		case before[g] == 0 && after[g] > 0:
			logger.Warn("no backend of the subset is usable; others are used as well", fields...)
		case before[g] > 0 && after[g] == 0:
			logger.Info("subset is used alone again", fields...)
		}
	}
	return changed, next
}

// tally counts the members of a narrowed set by group.
func (s *Set) tally() map[subset.Group]subset.Tally {
	tallies := make(map[subset.Group]subset.Tally)
	for i, g := range s.narrowed.groups {
		b := s.view.Backend(i)
		if b.State != pool.Ready || b.Weight == 0 {
			continue
		}
		t := tallies[g]
		t.Windows = s.narrowed.windows[g]
		own, usable := s.narrowed.places[i] == subset.Own, b.Unchecked || s.view.Member(i).Vitals().Usable
		if usable {
			t.Usable++
		}
		if own {
			t.Own++
			if usable {
				t.OwnUsable++
			}
		}
		tallies[g] = t
	}
	return tallies
}

// Counts returns the number of all backends, of those in the subset, and of others that are used while the subset is not usable.
func (s *Set) Counts() (of, chosen, further int) {
	if s.narrowed == nil {
		return s.view.Len(), s.view.Len(), 0
	}
	return s.narrowed.of, s.narrowed.chosen, s.narrowed.further
}

// Subset returns the rule of the subset; nil if all backends are used.
func (s *Service) Subset() *subset.Rule {
	if s.subset == nil {
		return nil
	}
	return &s.subset.rule
}

// Shortened returns the list without the backends outside the subset, except for those that were edited.
func (s *Service) Shortened(running []overlay.Running) []overlay.Running {
	set, _ := s.Shown()
	if set == nil || set.narrowed == nil {
		return running
	}
	used := make(map[string]bool, set.view.Len())
	for i := range set.view.Len() {
		used[set.view.Backend(i).Address] = true
	}
	short := make([]overlay.Running, 0, len(used))
	for _, b := range running {
		if used[b.Address] || len(b.Edits) > 0 || b.Added != nil || b.Removed != nil {
			short = append(short, b)
		}
	}
	return short
}
