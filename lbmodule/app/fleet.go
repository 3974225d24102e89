package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"github.com/cespare/xxhash/v2"

	"github.com/ballastlb/ballast/lbmodule/fleet"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

// fleetLeave bounds how long a config that ends waits for the removal of this node's document.
const fleetLeave = 2 * time.Second

// nodes is the fleet of this process, across config reloads. It is created when the first config starts, because the node's identity is
// read from files.
var nodes = sync.OnceValue(func() *fleet.Fleet {
	identity, err := service.Identity()
	if err != nil {
		identity = ""
	}
	return fleet.New(identity)
})

// adminAt is the address of the admin endpoint, which Caddy does not tell modules; it is learned from requests, and nil before the first.
var adminAt atomic.Pointer[string]

// AskedAt records the address at which a request reached the admin endpoint.
func AskedAt(address string) {
	if have := adminAt.Load(); have == nil || *have != address {
		adminAt.Store(&address)
	}
}

// Fleet describes the nodes that share the storage.
func Fleet() fleet.View { return nodes().View() }

// FleetSize returns the numbers of nodes that are alive, including this one, and of those that are gone.
func FleetSize() (alive, gone int) { return nodes().Count() }

// fleetSource is the [fleet.Source] of a config. It is used by one goroutine.
type fleetSource struct {
	app   *App
	rates rates
}

func (s *fleetSource) Storage() certmagic.Storage { return s.app.Storage() }

func (s *fleetSource) Serving() bool { return serving.Latest() == s.app }

// Describe implements [fleet.Source].
func (s *fleetSource) Describe(pools bool) fleet.Node {
	n := fleet.Node{Version: version(), Config: s.app.digest()}
	n.Name, _ = os.Hostname() // without a name, the ID is shown
	if at := adminAt.Load(); at != nil {
		n.Admin = *at
	}
	if !pools {
		return n
	}
	now := time.Now()
	s.rates.begin(now)
	for _, p := range s.app.Pools() {
		n.Pools = append(n.Pools, s.pool(p, now))
	}
	return n
}

// pool describes a pool.
func (s *fleetSource) pool(p *service.Service, now time.Time) fleet.Pool {
	running := p.Running(now)
	seen := s.app.OverviewOf(p, p.Shortened(running))
	o := fleet.Pool{
		Name: seen.Name, State: seen.State, Usable: seen.Usable, Subset: seen.Subset != nil, Members: members(running),
		Backends: make([]fleet.Backend, 0, len(seen.Backends)),
	}
	edits := p.Manager().Edits().Overlay
	o.Edits, o.Version = digestOf(edits), edits.Version
	for i := range seen.Backends {
		b := &seen.Backends[i]
		if b.Reason == status.OutsideSubset {
			continue
		}
		shown := fleet.Backend{
			Name: b.Name, Address: b.Address, State: b.State, Usable: b.Usable, Reason: b.Reason, Health: b.Health, Breaker: b.Breaker,
			Weight: b.Weight, Edited: len(b.Edits) > 0 || b.Added != nil || b.Removing, InFlight: b.InFlight,
		}
		shown.Requests, shown.Failures = s.rates.of(seen.Name, b.Address, b.Requests, b.Failures)
		if b.LastCheck != nil {
			shown.Error = b.LastCheck.Error
		}
		if b.LatencyMs != nil {
			shown.P50, shown.P99 = b.LatencyMs.P50, b.LatencyMs.P99
		}
		if m := p.Pool().Member(b.Address); m != nil && m.Named() {
			shown.Ejections = m.Traffic().SinceReset().Ejections[pool.EjectionEnforced]
		}
		o.Requests, o.Failures, o.InFlight = o.Requests+shown.Requests, o.Failures+shown.Failures, o.InFlight+b.InFlight
		o.Backends = append(o.Backends, shown)
	}
	o.Total = len(o.Backends)
	return o
}

// rates computes rates per second from the counts of two successive descriptions.
type rates struct {
	at           time.Time
	span         float64
	before, have map[[2]string][2]uint64
}

func (r *rates) begin(now time.Time) {
	r.span = now.Sub(r.at).Seconds()
	r.at, r.before, r.have = now, r.have, make(map[[2]string][2]uint64, len(r.have))
}

// of returns the requests and failures per second. A count that has decreased was reset.
func (r *rates) of(pool, address string, requests, failures uint64) (float64, float64) {
	key := [2]string{pool, address}
	r.have[key] = [2]uint64{requests, failures}
	was, known := r.before[key]
	if !known || r.span <= 0 || requests < was[0] || failures < was[1] {
		return 0, 0
	}
	round := func(n uint64) float64 { return float64(int64(float64(n)/r.span*10+0.5)) / 10 }
	return round(requests - was[0]), round(failures - was[1])
}

// members returns a digest of the backends' addresses, independent of their order.
func members(running []overlay.Running) string {
	var sum uint64
	for i := range running {
		sum += xxhash.Sum64String(running[i].Address)
	}
	return fmt.Sprintf("%016x", sum)
}

// digestOf returns a digest of edits, "" if there are none. It leaves out revisions, which depend on the order in which nodes saw the
// edits.
func digestOf(o *overlay.Overlay) string {
	if len(o.Backends) == 0 {
		return ""
	}
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, address := range slices.Sorted(maps.Keys(o.Backends)) {
		e := o.Backends[address]
		e.Revision = 0
		_ = encoder.Encode([]any{address, e}) // plain values can be encoded
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// digest returns a digest of the settings of all pools, without those that differ between the nodes of a fleet.
func (a *App) digest() string {
	a.mu.Lock()
	joined := slices.Clone(a.joined)
	a.mu.Unlock()
	slices.SortFunc(joined, func(a, b joinedPool) int { return strings.Compare(a.called, b.called) })
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, j := range joined {
		_ = encoder.Encode([]string{j.called, hex.EncodeToString([]byte(cmp.Or(j.key.Shared, j.key.Settings)))})
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// version returns the versions of the load balancer and of Caddy.
var version = sync.OnceValue(func() string {
	const path = "github.com/ballastlb/ballast"
	own := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if m.Path == path {
				own = m.Version
				if m.Replace != nil {
					own = cmp.Or(m.Replace.Version, own)
				}
			}
		}
	}
	of, _ := caddy.Version()
	return "ballast " + own + ", caddy " + of
})

// leaveFleet removes this node's document if no other config serves.
func (a *App) leaveFleet() {
	if a.quitFleet == nil {
		return
	}
	a.quitFleet()
	if serving.Len() > 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), fleetLeave)
	defer cancel()
	if err := nodes().Leave(ctx, a.Storage()); err != nil {
		a.logger.Debug("document of this node could not be removed; other nodes will show the node as gone")
	}
}

var _ fleet.Source = (*fleetSource)(nil)
