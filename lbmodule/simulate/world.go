package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/subset"
)

// world is a simulation as it runs.
type world struct {
	*balancing
	clock         clock
	random        *rand.Rand // of the backends and the network
	arriving      *rand.Rand // of the arrivals; separate, so that they are the same for every policy
	network       Times
	clientTimeout time.Duration
	writes        float64

	backends  []*backend
	byAddress map[string]*backend
	balancers []*balancer
	waiting   int     // requests that wait for a snapshot
	sessions  []int32 // backend of a client's session; -1 for none

	measuring
}

// balancer is one of the load balancers: a [course.Source], and the [course.Members] that it names.
type balancer struct {
	world    *world
	pool     *pool.Pool
	view     *pool.View
	members  []int          // the backends that it uses, in ascending order: the positions of view
	snapshot *pool.Snapshot // the snapshot that the waiting requests have seen
	sleeping []*request     // requests that wait for another snapshot
}

// Run simulates the pool in the scenario. It stops early when ctx ends.
func Run(ctx context.Context, p *Pool, scenario Scenario) (*Result, error) {
	s := &scenario
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	ready, end, err := p.prepare(ctx, s.Count)
	defer end()
	if err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	if n := s.Balancers * len(ready.backends); n > maxMembers {
		return nil, fmt.Errorf("scenario: balancers: %d with %d backends each: must be at most %d in all", s.Balancers, len(ready.backends), maxMembers)
	}
	w, arrivals, err := newWorld(ready, s)
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	if err := w.run(ctx, arrivals); err != nil {
		return nil, err
	}
	return w.result(p, s), nil
}

// newWorld creates the state before the first request.
func newWorld(b *balancing, s *Scenario) (*world, arrivals, error) {
	const ofBackends, ofArrivals, ofClients = 1, 2, 3
	w := &world{
		balancing: b, random: rand.New(rand.NewPCG(s.Seed, ofBackends)), arriving: rand.New(rand.NewPCG(s.Seed, ofArrivals)),
		network: s.Network, clientTimeout: time.Duration(s.ClientTimeout), writes: s.Writes, byAddress: make(map[string]*backend),
	}
	logs := make(logs)
	if s.Network.Log != "" {
		log, err := logs.read(s.Network.Log)
		if err != nil {
			return nil, nil, fmt.Errorf("network: %w", err)
		}
		w.network.Samples = log.all
	}
	arrivals, err := newArrivals(s, w.arriving, logs)
	if err != nil {
		return nil, nil, err
	}
	w.measuring.init(s, len(b.backends))
	for i, configured := range b.backends {
		w.backends = append(w.backends, &backend{place: i, clock: &w.clock, random: w.random, name: b.names[i], address: configured.Address, Behavior: usual})
		w.byAddress[configured.Address] = w.backends[i]
	}
	for i := range s.Backends {
		c := &s.Backends[i]
		if err := w.check(c, logs); err != nil {
			return nil, nil, fmt.Errorf("backends: entry %d: %w", i+1, err)
		}
		w.change(c, logs)
	}
	for i := range s.Events {
		if err := w.check(&s.Events[i].Change, logs); err != nil {
			return nil, nil, fmt.Errorf("events: entry %d: %w", i+1, err)
		}
		e := &s.Events[i]
		w.clock.after(time.Duration(s.WarmUp+e.At), func() { w.change(&e.Change, logs) })
	}
	w.sessions = make([]int32, arrivals.clients())
	for i := range w.sessions {
		w.sessions[i] = -1
	}
	for i := range s.Balancers {
		w.addBalancer(w.choose(i, s), s.Seed+uint64(i)<<32+ofClients)
	}
	return w, arrivals, nil
}

// choose returns the backends that balancer i uses, in ascending order: all, or its subset.
func (w *world) choose(i int, s *Scenario) (members []int) {
	places := make([]subset.Place, len(w.backends))
	if w.subset != nil {
		rule := subset.Rule{Size: w.subset.Size, Identity: s.Seed<<32 + uint64(i)}
		if w.subset.Peers != nil {
			rule = subset.Rule{Size: w.subset.Size, Peers: s.Balancers, Peer: i}
		}
		all := make([]subset.Backend, len(w.backends))
		for k, b := range w.balancing.backends {
			all[k] = subset.Backend{Address: b.Address, Group: subset.GroupOf(b.Backup, b.Zone, w.settings.PreferZone), Idle: b.Weight == 0}
		}
		places = rule.Choose(all, nil).Places
	}
	for k, place := range places {
		if w.subset == nil || place == subset.Own {
			members = append(members, k)
		}
	}
	return members
}

// addBalancer adds a balancer that uses these backends, and whose dice have this seed.
func (w *world) addBalancer(members []int, seed uint64) {
	b := &balancer{world: w, pool: pool.NewRegistry(&w.clock, seed).Acquire("simulated"), members: members}
	used := make([]pool.Backend, len(members))
	for i, k := range members {
		used[i] = w.balancing.backends[k]
	}
	b.view = b.pool.Open(used, w.settings)
	dial := pool.Dialer(w.connect)
	for i := range used {
		b.view.Member(i).Redial(&dial, false)
	}
	w.balancers = append(w.balancers, b)
}

// connect is the [pool.Dialer] of all balancers.
func (w *world) connect(_ context.Context, address string) error {
	if w.byAddress[address].State == down {
		return syscall.ECONNREFUSED
	}
	return nil
}

// change applies a change, which has been checked, to the backends that it concerns.
func (w *world) change(c *Change, logs logs) {
	for _, b := range w.backends {
		if !c.concerns(b.name, b.address) {
			continue
		}
		to, _ := c.apply(b.Behavior)
		b.logged = nil
		if log := logs[to.Log]; log != nil {
			b.logged = log.of(b.name, b.address)
		}
		b.change(to)
	}
}

// check checks a change, and reads its log.
func (w *world) check(c *Change, logs logs) error {
	found := false
	for _, b := range w.backends {
		if !c.concerns(b.name, b.address) {
			continue
		}
		found = true
		to, err := c.apply(b.Behavior)
		if err == nil && to.Log != "" {
			_, err = logs.read(to.Log)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("backend %q: matches no backend", c.Backend)
	}
	return nil
}

// run runs the simulation to the end of the last request.
func (w *world) run(ctx context.Context, arrivals arrivals) error {
	w.arrive(arrivals)
	const (
		forever    = 1<<63 - 1
		checkEvery = 1024 // events
	)
	for n := 0; w.clock.run(forever); n++ {
		if w.waiting > 0 {
			w.rouse()
		}
		if w.arrived && w.open == 0 {
			return nil // timers of pools may go on forever
		}
		if n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("requests wait, but no event is left")
}

// arrive schedules the next arrival.
func (w *world) arrive(arrivals arrivals) {
	at, client, ok := arrivals.next()
	if !ok {
		w.arrived = true
		return
	}
	w.clock.after(at-w.clock.now, func() {
		q := &request{world: w, of: w.balancers[0], client: client, write: w.writes > 0 && w.arriving.Float64() < w.writes}
		if n := len(w.balancers); n > 1 {
			q.of = w.balancers[w.arriving.IntN(n)]
		}
		w.open++
		w.arrive(arrivals)
		q.begin()
	})
}

// sleep makes q wait for another snapshot. unsleep undoes that.
func (b *balancer) sleep(q *request) {
	if len(b.sleeping) == 0 {
		b.snapshot = b.view.Snapshot()
	}
	q.place = len(b.sleeping)
	b.sleeping = append(b.sleeping, q)
	b.world.waiting++
}

func (b *balancer) unsleep(q *request) {
	last := len(b.sleeping) - 1
	b.sleeping[q.place] = b.sleeping[last]
	b.sleeping[q.place].place = q.place
	b.sleeping = b.sleeping[:last]
	b.world.waiting--
}

// rouse resumes the requests whose snapshot has been replaced.
func (w *world) rouse() {
	for _, b := range w.balancers {
		if len(b.sleeping) == 0 || b.snapshot == b.view.Snapshot() {
			continue
		}
		b.snapshot = b.view.Snapshot()
		for _, q := range append([]*request(nil), b.sleeping...) {
			select {
			case <-q.step.Wake[0]:
				q.resume(course.Signaled)
			default:
			}
		}
	}
}

// Members implements [course.Source].
func (b *balancer) Members(bool) (course.Members, error) { return b, nil }

// Quiet implements [course.Source].
func (b *balancer) Quiet() bool { return false }

// View implements [course.Members].
func (b *balancer) View() *pool.View { return b.view }

// Target implements [course.Members].
func (b *balancer) Target(position int) course.Target { return b.world.backends[b.members[position]] }

// Find implements [course.Members].
func (b *balancer) Find(address string) int {
	return b.positionOf(b.world.byAddress[address].place)
}

// positionOf returns the position of a backend in the view; -1 if the balancer does not use it.
func (b *balancer) positionOf(backend int) int {
	if at, uses := slices.BinarySearch(b.members, backend); uses {
		return at
	}
	return -1
}

// Superseded implements [course.Members]: the list of backends never changes.
func (b *balancer) Superseded() (first, second <-chan struct{}) { return nil, nil }

// Stay implements [course.Members].
func (b *balancer) Stay() {}

// Leave implements [course.Members].
func (b *balancer) Leave() {}

// Address implements [course.Target].
func (b *backend) Address() string { return b.address }
