package pool

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Pool is a set of members with a name. Its members are known by address and are there for as long as a view
// holds them or a request is on them.
type Pool struct {
	// Latency is how long requests take until they are answered, as far as somebody counts.
	Latency Latency

	// Queued is for how long requests waited in the queue, whatever became of them.
	Queued Histogram

	// Live are the requests that the pool is serving, as far as somebody says so.
	Live Live

	name string

	panicking atomic.Bool // as reported last
	rebound   atomic.Uint64
	budget    budget // of retries
	hedges    budget // of copies; its mutex comes before that of budget
	queue     queue
	holding   atomic.Int64 // requests that wait for a dead member to be back

	ejecting sync.Mutex // held while a breaker opens, so that several cannot do so where one may
	served   servedTargets

	answers   answers
	hedgesWon atomic.Uint64
	others    Traffic    // of members beyond maxNamed, of those that depend on the request, and of backends that are no members
	looking   sync.Mutex // guards trend, and the rates of members
	trend     trend

	listening sync.Mutex // guards listeners
	listeners []*listener

	mu        sync.Mutex // guards members, their refs and the replacement of their watchers, and what follows
	members   map[string]*Member
	named     int   // members that have a Traffic of their own
	forgotten Picks // of members that had none, and are not there any more
}

const (
	// retention is for how long a member that nobody holds keeps its state: name servers drop and return names.
	retention = time.Minute
	// maxRetained bounds how many of them a pool keeps.
	maxRetained = 1024
)

// Name is the pool's name.
func (p *Pool) Name() string { return p.name }

// Members returns the members that views hold, sorted by address.
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

// Hold notes that a request waits for a dead member to be back, unless there are that many who do. EndHold ends it.
func (p *Pool) Hold(most int) bool {
	if p.holding.Add(1) > int64(most) {
		p.holding.Add(-1)
		return false
	}
	return true
}

// EndHold ends what Hold began.
func (p *Pool) EndHold() { p.holding.Add(-1) }

// Holding is how many requests wait for a dead member to be back.
func (p *Pool) Holding() int { return int(p.holding.Load()) }

// MaxBackup is the highest level of backups.
const MaxBackup = 9

// State is whether a backend is to be used, as far as people have a say.
type State uint8

const (
	// Ready is as usual.
	Ready State = iota
	// Draining is no new requests, but those of sessions that are bound to it.
	Draining
	// Drained is no new requests at all.
	Drained
	// Maintenance is Drained, and what is known of its health is out of date.
	Maintenance
)

// Backend is a member's settings in one view.
type Backend struct {
	Address     string
	State       State
	Weight      int    // 0..balance.MaxWeight; 0 takes no new requests
	MaxRequests int    // exact bound of requests in flight, counted over all views of the pool; 0 = none
	Backup      int    // level: used while no backend of a lower one is eligible; 0 = primary, at most MaxBackup
	Zone        string // for Settings.PreferZone
	Unchecked   bool   // the address stands for several backends, depending on the request: checks do not apply
}

// InFlight is the number of requests that the member with that address is serving; 0 if there is none.
func (p *Pool) InFlight(address string) int64 {
	if m := p.Member(address); m != nil {
		return m.InFlight()
	}
	return 0
}

// Member returns the member with that address, nil if there is none.
func (p *Pool) Member(address string) *Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[address]
}

// takesNew tells whether the backend is to be given new requests at all.
func (b *Backend) takesNew() bool { return b.Weight > 0 && b.State == Ready }

// keepsSessions tells whether requests of sessions that are bound to it still go to a backend that takes no new ones.
func (b *Backend) keepsSessions() bool {
	return b.State == Draining || b.State == Ready && b.Weight == 0
}

// Initial is how a member with an active check is treated before its first probe has ended.
type Initial uint8

const (
	// HoldUntilChecked gives it no requests.
	HoldUntilChecked Initial = iota
	// StartUp takes it for healthy.
	StartUp
	// StartDown takes it for unhealthy.
	StartDown
)

// Passive are checks that watch the requests. The zero Passive does not.
type Passive struct {
	Span        time.Duration // for how long a failure is remembered
	MaxFails    int           // so many failures make a member unfit; 0 for any number
	MaxRatio    float64       // or this share of its requests; 0 for any share
	MinRequests int           // before the share counts
}

// Settings are what a view goes by.
type Settings struct {
	// Policy chooses. Without one the caller does: see [View.AcquireMember].
	Policy balance.Policy

	Checked bool    // an active check watches the members
	Initial Initial // what they are before it has
	Passive Passive

	// PreferZone is the zone whose members are given all requests that they can take. Without one zones do not matter.
	PreferZone string

	// Unnamed has members be counted together, because who they are depends on requests.
	Unnamed bool

	// SlowStart is for how long a member is ramped up after it joined the pool or recovered; 0 for not at all.
	SlowStart time.Duration

	// Breaker is what the members' circuit breakers go by.
	Breaker breaker.Settings
	// ConnectionsOnly has them hear of nothing: there is no breaker then, and only the dead are out.
	ConnectionsOnly bool
	// MaxEjected is the share of the members that breakers may take out; it is rounded down, and one always may.
	MaxEjected float64
	// DryRun has them decide and report, but take nobody out.
	DryRun bool
	// DeadAfter is how many connections in a row must fail until a member is dead; 0 for 5.
	DeadAfter int

	// PanicThreshold is the usable share of the members below which all are used that are not dead. At 0 that is
	// so when nobody is usable.
	PanicThreshold float64
}

// Open makes a view of the pool with these backends, whose addresses must differ. The view is to be closed when
// its config goes.
func (p *Pool) Open(backends []Backend, settings Settings) *View {
	v, events := p.OpenQuietly(backends, settings)
	p.Report(events)
	return v
}

// OpenQuietly is Open for those who hold a lock: it returns what there is to [Pool.Report] afterwards.
func (p *Pool) OpenQuietly(backends []Backend, settings Settings) (*View, []Event) {
	if sized, ok := settings.Policy.(balance.Sized); ok {
		settings.Policy = sized.For(len(backends))
	}
	v := &View{
		pool:     p,
		settings: settings,
		backends: slices.Clone(backends),
		members:  make([]*Member, len(backends)),
	}
	now := time.Now()
	p.mu.Lock()
	p.sweep(now)
	// Members of a pool that is new as a whole need no slow start: nobody else could take their share.
	late := len(p.members) > 0
	for i, b := range v.backends {
		m := p.members[b.Address]
		if m == nil {
			m = &Member{address: b.Address, id: xxhash.Sum64String(b.Address), pool: p, vitals: &vitals{cold: late}, traffic: p.newTraffic(settings.Unnamed)}
			p.members[b.Address] = m
		}
		m.refs++
		v.members[i] = m
	}
	p.mu.Unlock()
	// The snapshot must be there before a member tells of its changes, and synchronised after all of them do. It is built with no lock
	// that others wait for: the table of a large pool takes its time.
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

// hold takes v's hold of its members again. Those that the pool has forgotten meanwhile are v's alone.
func (p *Pool) hold(v *View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range v.members {
		m.refs++
		m.watch(v, i)
	}
}

// close takes v's hold from its members.
func (p *Pool) close(v *View) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range v.members {
		m.unwatch(v)
		if m.refs--; m.refs == 0 {
			m.left = now
		}
	}
	p.sweep(now)
}

// sweep forgets members that nobody has held for a while. One with requests on it stays: should its address come
// back, its cap has to count them. It is called with p.mu held.
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
		if now.Sub(m.left) >= retention || retained > maxRetained {
			delete(p.members, address)
			retained--
			if m.Named() {
				p.named--
			} else {
				p.forgotten.add(m.Picks())
			}
		}
	}
}

// Registry knows the pools in use by name. The zero Registry is ready for use.
type Registry struct {
	mu    sync.Mutex
	pools map[string]*registered
}

type registered struct {
	pool *Pool
	refs int
}

// Acquire returns the pool of that name, a new one if nobody holds it. Every Acquire wants one Release.
func (r *Registry) Acquire(name string) *Pool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pools[name]
	if e == nil {
		if r.pools == nil {
			r.pools = make(map[string]*registered)
		}
		e = &registered{pool: &Pool{name: name, members: make(map[string]*Member)}}
		r.pools[name] = e
	}
	e.refs++
	return e.pool
}

// Release takes back one Acquire; the last one forgets the pool.
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
