package pool

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/limit"
)

// Pool is a named set of members, which are identified by address. A member exists while a view holds it or it has requests.
type Pool struct {
	// Latency is the distribution of the time to an answer, as far as callers record it.
	Latency Latency

	// Queued is the distribution of the time that requests waited in the queue, with any result.
	Queued Histogram

	// Mirrored counts copies of requests for systems outside the pool.
	Mirrored Mirrored

	// Live holds the requests that the pool is serving, as far as callers add them.
	Live Live

	name     string
	registry *Registry
	streams  streams
	canaries canaries

	panicking atomic.Bool // as last reported
	rebound   atomic.Uint64
	budget    budget // of retries
	hedges    budget // of copies; its mutex is locked before that of budget
	queue     queue
	holding   atomic.Int64 // number of requests that wait for a dead member to come back

	dismissal sync.Once
	dismissed chan struct{} // see Dismiss

	ejecting sync.Mutex // held while a breaker opens, so that two cannot open if only one may
	served   servedTargets

	answers   answers
	refusals  refusals
	hedgesWon atomic.Uint64
	detours   detours
	others    *Traffic   // counters shared by members beyond maxNamed, members whose address depends on the request, and backends that are not members
	looking   sync.Mutex // guards trend, lately and the members' rates
	trend     trend
	lately    lately

	listening sync.Mutex // guards listeners
	listeners []*listener

	mu        sync.Mutex // guards members, their refs, the replacement of their watchers, and the fields below
	members   map[string]*Member
	named     int   // number of members with their own Traffic
	timed     int   // number of those with their own histograms
	forgotten Picks // sums for deleted members without their own Traffic
	shadows   []*Shadow

	leftAttempts uint64 // attempts on deleted members with their own Traffic
	left         Sum    // of those members
}

const (
	// retention is how long the state of a member is kept when no view holds it: name servers drop and return addresses.
	retention = time.Minute
	// maxRetained bounds the number of such members in a pool.
	maxRetained = 1024
)

// Name returns the pool's name.
func (p *Pool) Name() string { return p.name }

// Members returns the members held by views, sorted by address.
func (p *Pool) Members() []*Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Member, 0, len(p.members))
	for _, m := range p.members {
		if m.refs > 0 {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *Member) int { return strings.Compare(a.address, b.address) })
	return all
}

// Hold registers a request that waits for a dead member to come back. It returns false, without effect, if the given maximum of such
// requests is reached. EndHold undoes it.
func (p *Pool) Hold(most int) bool {
	if p.holding.Add(1) > int64(most) {
		p.holding.Add(-1)
		return false
	}
	return true
}

// EndHold undoes Hold.
func (p *Pool) EndHold() { p.holding.Add(-1) }

// Holding returns the number of requests that wait for a dead member to come back.
func (p *Pool) Holding() int { return int(p.holding.Load()) }

// Dismiss ends the waits of all requests, now and from now on: the process is about to exit. It cannot be undone.
func (p *Pool) Dismiss() { p.dismissal.Do(func() { close(p.dismissed) }) }

// Dismissed returns a channel that is closed by Dismiss.
func (p *Pool) Dismissed() <-chan struct{} { return p.dismissed }

// MaxBackup is the highest backup level.
const MaxBackup = 9

// State is the administrative state of a backend.
type State uint8

const (
	// Ready is normal operation.
	Ready State = iota
	// Draining means no new requests, except for sessions that belong to it.
	Draining
	// Drained means no new requests at all.
	Drained
	// Maintenance is Drained, and its health is also forgotten.
	Maintenance
)

// Backend is a member's settings in one view.
type Backend struct {
	Address     string
	Weight      int    // 0..balance.MaxWeight; 0 means no new requests
	MaxRequests int    // exact bound of requests in flight, counted over all views of the pool; 0 = none, or Auto
	Backup      int    // level: used while no backend of a lower one is eligible; 0 = primary, at most MaxBackup
	Zone        string // for Settings.PreferZone
	State       State
	Unchecked   bool // the address depends on the request, so checks do not apply
}

// Auto as MaxRequests means that the limit is adaptive: see package limit. A config cannot contain this number.
const Auto = math.MinInt32

// InFlight returns the number of requests at the member with this address; 0 if there is no such member.
func (p *Pool) InFlight(address string) int64 {
	if m := p.Member(address); m != nil {
		return m.InFlight()
	}
	return 0
}

// Member returns the member with this address, nil if there is none.
func (p *Pool) Member(address string) *Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[address]
}

// takesNew reports whether the backend takes new requests at all.
func (b *Backend) takesNew() bool { return b.Weight > 0 && b.State == Ready }

// keepsSessions reports whether a backend without new requests still gets those of its sessions.
func (b *Backend) keepsSessions() bool {
	return b.State == Draining || b.State == Ready && b.Weight == 0
}

// Initial is how a member with an active check is treated until its first probe has ended.
type Initial uint8

const (
	// HoldUntilChecked gives it no requests.
	HoldUntilChecked Initial = iota
	// StartUp treats it as healthy.
	StartUp
	// StartDown treats it as unhealthy.
	StartDown
)

// Passive configures passive checks, which watch the requests. The zero Passive disables them.
type Passive struct {
	Span        time.Duration // how long a failure counts
	MaxFails    int           // this many failures make a member unhealthy; 0 disables this rule
	MaxRatio    float64       // or this share of its requests; 0 disables this rule
	MinRequests int           // the minimum number of requests for MaxRatio
}

// Settings are the settings of a view.
type Settings struct {
	// Policy chooses the members. If it is nil, the caller chooses: see [View.AcquireMember].
	Policy balance.Policy
	// Shadow is a policy that decides on the same requests, without effect; nil for none.
	Shadow balance.Policy

	Checked bool    // an active check watches the members
	Initial Initial // state of members before their first check
	Passive Passive

	// PreferZone is the zone whose members are preferred as long as they can take the requests. If it is empty, zones do not matter.
	PreferZone string

	// Unnamed makes the members share their counters, because their addresses depend on requests.
	Unnamed bool

	// SlowStart is how long a member is ramped up after it joined the pool or recovered; 0 disables it.
	SlowStart time.Duration
	// ShortestRamp limits the ramp of a member that recovers to the time that it was away, but not below ShortestRamp; 0 disables that.
	ShortestRamp time.Duration

	// Dials says that a Dialer connects in the same way as requests do. Then a member whose breaker opens is redialed, and is dead if that
	// fails.
	Dials bool

	// Breaker configures the members' circuit breakers.
	Breaker breaker.Settings
	// ConnectionsOnly disables the breakers, so that only dead members are out.
	ConnectionsOnly bool
	// MaxEjected is the share of the members that breakers may take out, rounded down, but at least one.
	MaxEjected float64
	// DryRun makes breakers decide and report, but take no member out.
	DryRun bool
	// DeadAfter is the number of consecutive failed connections after which a member is dead; 0 means 5.
	DeadAfter int

	// PanicThreshold is the usable share of the members below which all members that are not dead are used; with 0 that happens when none is
	// usable.
	PanicThreshold float64
}

// Open opens a view of the pool with these backends, whose addresses must differ and which it keeps. The view must be closed when its config
// ends.
func (p *Pool) Open(backends []Backend, settings Settings) *View {
	v, events := p.OpenQuietly(backends, settings)
	p.Report(events)
	return v
}

// OpenQuietly is Open for callers that hold a lock: it returns the events to [Pool.Report] afterwards.
func (p *Pool) OpenQuietly(backends []Backend, settings Settings) (*View, []Event) {
	return p.open(&View{backends: backends, settings: settings})
}

// open opens a view that has its backends and settings.
func (p *Pool) open(v *View) (*View, []Event) {
	backends, settings := v.backends, &v.settings
	settings.Policy = fitted(settings.Policy, len(backends), p.Dice())
	v.pool, v.members = p, make([]*Member, len(backends))
	now := p.now()
	p.mu.Lock()
	p.sweep(now)
	if settings.Shadow != nil {
		v.shadow, v.shades = p.shadowFor(settings.Shadow), make([]*shade, len(backends))
		v.shadowPolicy = fitted(settings.Shadow, len(backends), v.shadow.dice)
	}
	// The members of a new pool need no slow start: no other member could take their share.
	late := len(p.members) > 0
	for i, b := range v.backends {
		m := p.members[b.Address]
		if m == nil {
			m = &Member{address: b.Address, id: xxhash.Sum64String(b.Address), pool: p, vitals: &vitals{cold: late}, traffic: p.newTraffic(settings.Unnamed)}
			p.members[b.Address] = m
		}
		m.refs++
		v.members[i] = m
		if b.MaxRequests != Auto {
			continue
		}
		v.auto = true
		if m.limit.Load() == nil {
			m.limit.Store(limit.New())
		}
	}
	p.holdShadow(v)
	p.mu.Unlock()
	// The snapshot must exist before members notify of changes, and be synchronised after all of them do. It is built without a lock that
	// others wait for, because building the table of a large pool takes long.
	events := v.refresh(now)
	p.mu.Lock()
	for i, m := range v.members {
		m.watch(v, i)
	}
	p.mu.Unlock()
	events = append(events, v.refresh(now)...)
	v.snap.Load().sync()
	return v, events
}

// fitted returns the policy adapted to the number of members and to the dice, if it depends on them. Nil stays nil.
func fitted(policy balance.Policy, members int, dice *balance.Dice) balance.Policy {
	if sized, ok := policy.(balance.Sized); ok {
		policy = sized.For(members)
	}
	if drawing, ok := policy.(balance.Drawing); ok && dice != nil {
		policy = drawing.With(dice)
	}
	return policy
}

// hold makes v hold its members again. Members that the pool has deleted in the meantime are held by v alone.
func (p *Pool) hold(v *View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range v.members {
		m.refs++
		m.watch(v, i)
	}
	p.holdShadow(v)
}

// close makes v release its members.
func (p *Pool) close(v *View) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range v.members {
		m.unwatch(v)
		if m.refs--; m.refs == 0 {
			m.left = now.UnixNano()
		}
	}
	if v.shadow != nil {
		v.shadow.refs--
	}
	p.sweep(now)
}

// sweep deletes members that no view has held for a while. A member with requests stays, because its cap must count them if its address
// returns. The caller holds p.mu.
func (p *Pool) sweep(now time.Time) {
	retained := 0
	for _, m := range p.members {
		if m.refs == 0 {
			retained++
		}
	}
	for address, m := range p.members {
		if m.refs > 0 || m.load.Load() > 0 {
			continue
		}
		if now.UnixNano()-m.left >= int64(retention) || retained > maxRetained {
			delete(p.members, address)
			m.leaveShades()
			retained--
			if m.Named() {
				p.left.add(m.traffic, m.Timed())
				p.named--
				if m.Timed() {
					p.timed--
				}
				p.leftAttempts += m.traffic.attempts()
			} else {
				p.forgotten.add(m.Picks())
			}
		}
	}
}

// Registry holds the pools in use, by name. The zero Registry is ready for use.
type Registry struct {
	clock Clock         // of all pools; nil means the system clock
	dice  *balance.Dice // of all pools

	shadowDice *balance.Dice // separate dice for shadow policies, so that these do not change what the others draw

	mu    sync.Mutex
	pools map[string]*registered
}

type registered struct {
	pool *Pool
	refs int
}

// NewRegistry returns a registry for simulations. Its pools use that clock, and draw the same random numbers in each run with the same
// seed. They must be used by one goroutine.
func NewRegistry(c Clock, seed uint64) *Registry {
	return &Registry{clock: c, dice: balance.NewDice(seed), shadowDice: balance.NewDice(^seed)}
}

// Acquire returns the pool with this name, a new one if it is not in use. Every Acquire needs one Release.
func (r *Registry) Acquire(name string) *Pool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pools[name]
	if e == nil {
		if r.pools == nil {
			r.pools = make(map[string]*registered)
		}
		e = &registered{pool: &Pool{name: name, registry: r, members: make(map[string]*Member), others: newTraffic(), dismissed: make(chan struct{})}}
		r.pools[name] = e
	}
	e.refs++
	return e.pool
}

// Release undoes one Acquire. The last Release deletes the pool.
func (r *Registry) Release(p *Pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pools[p.name]
	if e == nil || e.pool != p {
		return
	}
	if e.refs--; e.refs == 0 {
		delete(r.pools, p.name)
	}
}
