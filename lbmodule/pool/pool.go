package pool

import (
	"slices"
	"strings"
	"sync"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Pool is a set of members with a name. Its members are known by address and are there for as long as a view
// holds them or a request is on them.
type Pool struct {
	name string

	mu      sync.Mutex // guards members, their refs and the replacement of their watchers
	members map[string]*Member
}

// Name is the pool's name.
func (p *Pool) Name() string { return p.name }

// Members returns the pool's members, sorted by address.
func (p *Pool) Members() []*Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Member, 0, len(p.members))
	for _, m := range p.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *Member) int { return strings.Compare(a.address, b.address) })
	return all
}

// Backend is a member's settings in one view.
type Backend struct {
	Address     string
	Weight      int  // 0..balance.MaxWeight; 0 takes no new requests
	MaxRequests int  // exact bound of requests in flight, counted over all views of the pool; 0 = none
	Backup      bool // used while no other backend is eligible
}

// Open makes a view of the pool with these backends, whose addresses must differ. Without a policy the view
// does not choose by itself: see [View.AcquireMember]. The view is to be closed when its config goes.
func (p *Pool) Open(backends []Backend, policy balance.Policy) *View {
	v := &View{
		pool:     p,
		policy:   policy,
		backends: slices.Clone(backends),
		members:  make([]*Member, len(backends)),
		reasons:  make([]Reason, len(backends)),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range v.backends {
		m := p.members[b.Address]
		if m == nil {
			m = &Member{address: b.Address}
			p.members[b.Address] = m
		}
		m.refs++
		v.members[i] = m
	}
	// The snapshot must be there before a member tells of its changes, and synchronised after all of them do.
	v.snap.Store(v.build(nil))
	for i, m := range v.members {
		m.watch(v, i)
	}
	v.snap.Load().sync()
	return v
}

// close takes v's hold from its members.
func (p *Pool) close(v *View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range v.members {
		m.unwatch(v)
		m.refs--
	}
	// A member with requests on it is kept for now: should its address come back, its cap has to count them.
	for address, m := range p.members {
		if m.refs == 0 && m.load.Load() == 0 {
			delete(p.members, address)
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
